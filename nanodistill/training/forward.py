"""From a batch to its loss, without work that changes nothing.

A row of the quickstart has 150 tokens, of which 100 are the same instruction in
every row and 3 are the answer; 14 of the student's 30 layers are not trained.
Computing all of it for every row each time, as mlx-lm's loss does, spends nine
tenths on what is known or not needed. So, where the model allows it:

- the output layer runs on the places that predict targets alone (`SplitForward`);
- the tokens that all rows begin with run once for a batch, and each row sees
  their keys and values as if they stood before it (`SharedForward`);
- layers below the trained ones run once for each row of a run, when rows come
  by again: their outputs are kept (`keep`).

None of it changes the loss or its gradient by more than rounding, but for
dropout, whose draw the shared tokens have in common within a batch. It is right
only for a model that is embedding, blocks and norm, then an output layer and
nothing else, whose attention takes a cache. `select_forward_by_agreement` finds out: the
output layer on the body's outputs must give the model's logits to the bit, and
outputs behind shared tokens must be those of whole rows but for rounding. What
fails that is computed as the model does it (`WholeForward`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Identity
from mlx.nn.losses import cross_entropy
from mlx_lm.models.base import create_causal_mask

from nanodistill.training.batches import PLACES, TrainingBatch, assemble, by_tokens
from nanodistill.training.tokenize import Ints, TokenRows

ROUNDING = {mx.float32: 1e-3, mx.float16: 0.05, mx.bfloat16: 0.05}
"""Largest difference of outputs, as a share of the largest output, that is still rounding."""
WORTH_SHARING = 8
"""Tokens in common from which sharing them pays."""

Arrays = tuple[mx.array, ...]


class Forward(Protocol):
    """How losses are computed. `prefix` tokens are left out of the rows that it is given."""

    @property
    def prefix(self) -> int: ...

    def arrays(self, split: str, batch: TrainingBatch, /) -> Arrays:
        """What `loss` takes of a batch of that split."""

    def loss(
        self, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        """The weighted loss, and the number of targets."""


class WholeForward:
    """Everything, as the model does it."""

    prefix = 0

    def __init__(self, model: Module) -> None:
        self._model = model

    def arrays(self, _: str, batch: TrainingBatch, /) -> Arrays:
        return (mx.array(batch.inputs), *places_of(batch))

    def loss(
        self, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        logits = self._model(inputs[:, :-1])
        return weighted(logits.reshape(-1, logits.shape[-1])[where], targets, weights)


class SplitForward:
    """The output layer on the targets' places alone."""

    prefix = 0

    def __init__(self, model: Module) -> None:
        self._body, self._head = model["model"], head_of(model)

    def arrays(self, _: str, batch: TrainingBatch, /) -> Arrays:
        return (mx.array(batch.inputs), *places_of(batch))

    def loss(
        self, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        return weighted(self._head(self.outputs(inputs, where)), targets, weights)

    def outputs(self, inputs: mx.array, where: mx.array) -> mx.array:
        """What the body gives at the places `where`."""
        return gathered(self._body(inputs[:, :-1]), where)


class SharedForward:
    """The tokens that all rows begin with once a batch, and the layers below once a row.

    Args:
        shared: the tokens in common, none where sharing doesn't pay.
        frozen: how many layers lie below the trained ones.
    """

    def __init__(self, model: Module, shared: Ints, frozen: int, *, on_cpu: bool) -> None:
        body = model["model"]
        self.prefix = len(shared)
        self._on_cpu = on_cpu
        self._head = head_of(model)
        self._depth = len(body.layers) - frozen
        self._kept: dict[str, list[mx.array]] = {}
        self._lower = view(body, layers=body.layers[:frozen], norm=Identity()) if frozen else None
        upper = view(body, layers=body.layers[frozen:], embed_tokens=Identity())
        self._upper = upper if frozen else body
        self._below: list[ForwardPrefix] | None = None
        self._shared = mx.array(shared[None]) if self.prefix else None
        if self._shared is not None and self._lower is not None:
            met = [KVRecorder() for _ in range(frozen)]
            self._shared = self._lower(self._shared, cache=met)
            self._below = [self._before(seen) for seen in met]
            mx.eval(self._shared, [(seen.keys, seen.values) for seen in met])

    @property
    def bytes_per_token(self) -> int:
        """Memory that keeping one token's outputs takes."""
        outputs = self._run_lower(mx.array([[0]]))
        return int(outputs.nbytes)

    def keep(self, split: str, rows: TokenRows, look: Callable[[], None]) -> None:
        """Compute the layers below for all rows of a split, for good.

        The same rows go together each time, whatever the batches, so that going on later
        computes the same bits. `look` is called now and then and may raise.
        """
        kept: dict[int, mx.array] = {}
        for group in by_tokens(rows, PLACES):
            look()
            batch = assemble(rows, group, weight=1.0, multiple=1)
            outputs = self._run_lower(mx.array(batch.inputs))
            for line, row in enumerate(group):
                kept[row] = outputs[line, : len(rows[row])]
            mx.eval([kept[row] for row in group])
        self._kept[split] = [kept[row] for row in range(len(rows))]

    def arrays(self, split: str, batch: TrainingBatch, /) -> Arrays:
        if split not in self._kept or not batch.lines:
            return (mx.array(batch.inputs), *places_of(batch))
        width = batch.inputs.shape[1]
        rows = [self._kept[split][row] for row in batch.lines]
        side = mx.stack([mx.pad(row, [(0, width - row.shape[0]), (0, 0)]) for row in rows])
        return (side, *places_of(batch))

    def loss(
        self, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        return weighted(self._head(self.outputs(inputs, where)), targets, weights)

    def outputs(self, inputs: mx.array, where: mx.array) -> mx.array:
        lower = inputs[:, :-1]
        if inputs.ndim == 2:
            lower = self._run_lower(lower)
        return gathered(self._upper(lower, cache=self._before_upper()), where)

    def _run_lower(self, inputs: mx.array) -> mx.array:
        if self._lower is None:
            return inputs
        return mx.stop_gradient(self._lower(inputs, cache=self._below))

    def _before_upper(self) -> list[ForwardPrefix] | None:
        """The shared tokens in the trained layers, through which gradients flow."""
        if self._shared is None:
            return None
        met = [KVRecorder() for _ in range(self._depth)]
        self._upper(self._shared, cache=met)
        return [self._before(seen) for seen in met]

    def _before(self, seen: KVRecorder) -> ForwardPrefix:
        return ForwardPrefix(seen.keys, seen.values, additive=self._on_cpu)


class KVRecorder:
    """A layer's cache that sees the shared tokens go by."""

    offset = 0
    keys: mx.array
    values: mx.array

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if return_array or (window_size and n > window_size):
            return create_causal_mask(n, window_size=window_size)
        return None if n == 1 else "causal"


class ForwardPrefix:
    """A layer's cache that puts the shared tokens before every row.

    An additive mask is quicker than "causal" on a CPU, where choosing costs 25 times as much
    as adding.
    """

    def __init__(self, keys: mx.array, values: mx.array, *, additive: bool) -> None:
        self._keys, self._values = keys, values
        self._additive = additive
        self.offset = keys.shape[-2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return concatenated(self._keys, keys), concatenated(self._values, values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if not return_array and not self._additive and not window_size:
            return None if n == 1 else "causal"
        seen = create_causal_mask(n, offset=self.offset, window_size=window_size)
        if return_array or not self._additive:
            return seen
        return mx.where(seen, mx.array(0, self._keys.dtype), mx.finfo(self._keys.dtype).min)


def concatenated(shared: mx.array, own: mx.array) -> mx.array:
    spread = mx.broadcast_to(shared, (own.shape[0], *shared.shape[1:]))
    return mx.concatenate([spread, own], axis=-2)


def select_forward_by_agreement(
    model: Module, rows: TokenRows, *, shared: int, frozen: int, on_cpu: bool
) -> Forward:
    """The forward pass with the least work that is right for `model`, tried on some of `rows`.

    Args:
        shared: tokens that all rows begin with; 0 leaves sharing out.
        frozen: layers below the trained ones.
    """
    try:
        if not splits(model, rows):
            return WholeForward(model)
        split = SplitForward(model)
        tokens = rows[0][: shared if shared >= WORTH_SHARING else 0]
        if not len(tokens) and not frozen:
            return split
    except MISFITS:
        return WholeForward(model)
    try:
        forward = SharedForward(model, tokens, frozen, on_cpu=on_cpu)
        return forward if agree(split, forward, rows) else split
    except MISFITS:
        return split


MISFITS = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What a model raises that is put together in another way than a forward pass takes it to be."""


def splits(model: Module, rows: TokenRows) -> bool:
    """Whether the model is its body and output layer, to the bit, and nothing after that.

    Capped or scaled logits differ in bits already where they are small.
    """
    longest = rows[int(rows.lengths.argmax())]
    tokens = mx.array(longest[None])
    whole, parts = model(tokens), head_of(model)(model["model"](tokens))
    return whole.shape == parts.shape and bool(mx.all(whole == parts))


def agree(split: SplitForward, shared: SharedForward, rows: TokenRows) -> bool:
    """Whether both give the same outputs for the shortest and the longest row."""
    pair = sorted({int(rows.lengths.argmin()), int(rows.lengths.argmax())})
    found = []
    for forward in (split, shared):
        batch = assemble(rows.after(forward.prefix), pair, weight=1.0, multiple=1)
        inputs, where, *_ = forward.arrays("sample", batch)
        found.append(forward.outputs(inputs, where))
    one, other = found
    apart = mx.abs(one - other).max() / mx.abs(one).max()
    return float(apart) < ROUNDING[one.dtype]


def gathered(outputs: mx.array, where: mx.array) -> mx.array:
    return outputs.reshape(-1, outputs.shape[-1])[where]


def view(body: Module, **replaced: Any) -> Module:
    """A model's body with some parts replaced, sharing all others with it."""
    other = copy.copy(body)
    for name, part in replaced.items():
        if name not in body:
            raise KeyError(name)
        other[name] = part
    return other


def head_of(model: Module) -> Callable[[mx.array], mx.array]:
    head: Callable[[mx.array], mx.array] = (
        model["lm_head"] if "lm_head" in model else model["model"]["embed_tokens"].as_linear
    )
    return head


def weighted(logits: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
    losses = cross_entropy(logits.astype(mx.float32), targets)
    return (losses * weights).sum(), (weights > 0).sum()


def places_of(batch: TrainingBatch) -> Arrays:
    return mx.array(batch.where), mx.array(batch.targets), mx.array(batch.weights)
