"""From a batch to its loss, without computing what can't change it.

In the quickstart 96 of a row's 135 tokens are the same instruction in every row, 3 are
targets, and 14 of the student's 30 layers are not trained. mlx-lm's loss computes all
of it for every row each time. So, where the model allows it:

- the output layer runs only at positions that predict targets;
- the tokens that all rows start with run once per batch, and each row sees their keys
  and values as if they came before it;
- layers below the trained ones run once per row, not once per epoch: their outputs
  are kept (`SplitForward.keep`).

Loss and gradients stay the same except for rounding, and except for dropout, where the
shared tokens of a batch get one draw. This is right only for a model that is
embedding, blocks, norm and output layer and nothing else, with attention that takes a
cache. `select_forward_by_agreement` tests that on the model itself: the output layer on
the body's outputs must give the model's logits to the bit, and outputs after shared
tokens must match those of whole rows within rounding. A model that fails computes
whole rows (`WholeForward`). Figures: docs/decisions/0041.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Identity
from mlx.nn.losses import cross_entropy
from mlx_lm.models.base import create_causal_mask

from nanodistill.events import Listener, Notice
from nanodistill.hardware import GIB
from nanodistill.training.batches import FORWARD_TOKENS, TrainingBatch, assemble, group_by_length
from nanodistill.training.mlx_setup import on_cpu, trained_layers
from nanodistill.training.tokenize import Ints, TokenRows, shared_tokens
from nanodistill.training.training_options import TrainingJob

# The largest difference, as a share of the largest output, that counts as rounding. A wrong
# computation differs by about 1; half precision keeps 3 digits and float32 7, of which sums over
# some thousand products lose a few.
ROUNDING = {mx.float32: 1e-3, mx.float16: 0.05, mx.bfloat16: 0.05}
# Shared tokens from which a separate pass over them pays. Every template shares a few (its first
# role marker), which would cost a pass and save nothing.
MIN_SHARED = 8
# The share of max_memory_gb that kept outputs may take. The rest is for weights and activations;
# what does not fit is computed again each time.
KEPT_SHARE = 0.25
# What a model built differently raises when a forward pass takes it apart.
MISFITS = (AttributeError, IndexError, KeyError, TypeError, ValueError)

Arrays = tuple[mx.array, ...]


class Forward(Protocol):
    """Computes the loss of rows from which the first `prefix` tokens were removed."""

    @property
    def prefix(self) -> int: ...

    def arrays(self, split: str, batch: TrainingBatch, /) -> Arrays:
        """The arguments of `loss` for a batch of that split."""

    def loss(
        self, inputs: mx.array, positions: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        """The weighted sum of the losses, and the number of targets."""


class WholeForward:
    """The whole model on whole rows."""

    prefix = 0

    def __init__(self, model: Module) -> None:
        self._model = model

    def arrays(self, _: str, batch: TrainingBatch, /) -> Arrays:
        return (mx.array(batch.inputs), *_targets_of(batch))

    def loss(
        self, inputs: mx.array, positions: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        return _weighted_loss(_rows_at(self._model(inputs[:, :-1]), positions), targets, weights)


class SplitForward:
    """The output layer at target positions, shared tokens once per batch, frozen layers once.

    Args:
        shared: the tokens that all rows start with; may be empty.
        frozen: the number of layers below the trained ones to treat apart; may be 0.
    """

    def __init__(self, model: Module, shared: Ints, frozen: int, *, on_cpu: bool) -> None:
        body = model["model"]
        self.prefix = len(shared)
        self.frozen = frozen
        self._on_cpu = on_cpu
        self._head = _output_layer(model)
        self._kept: dict[str, list[mx.array]] = {}
        self._lower = _view(body, layers=body.layers[:frozen], norm=Identity()) if frozen else None
        self._upper = body
        if frozen:
            self._upper = _view(body, layers=body.layers[frozen:], embed_tokens=Identity())
        self._lower_cache: list[SharedPrefixCache] | None = None
        self._shared = mx.array(shared[None]) if self.prefix else None
        if self._shared is not None and self._lower is not None:
            recorders = [KVRecorder() for _ in range(frozen)]
            self._shared = self._lower(self._shared, cache=recorders)
            self._lower_cache = self._caches(recorders)
            mx.eval(self._shared, [(seen.keys, seen.values) for seen in recorders])

    @property
    def bytes_per_token(self) -> int:
        """Memory to keep one token's outputs of the lower layers."""
        return int(self._run_lower(mx.array([[0]])).nbytes)

    def keep(self, split: str, rows: TokenRows, check_interrupts: Callable[[], None]) -> None:
        """Compute the lower layers for all rows of a split and keep the outputs.

        Rows are grouped by length and not by batch, so that a resumed run computes the same
        bits. `check_interrupts` is called now and then and may raise.
        """
        kept: dict[int, mx.array] = {}
        for group in group_by_length(rows, FORWARD_TOKENS):
            check_interrupts()
            batch = assemble(rows, group, weight=1.0, multiple=1)
            outputs = self._run_lower(mx.array(batch.inputs))
            for line, row in enumerate(group):
                kept[row] = outputs[line, : len(rows[row])]
            mx.eval([kept[row] for row in group])
        self._kept[split] = [kept[row] for row in range(len(rows))]

    def arrays(self, split: str, batch: TrainingBatch, /) -> Arrays:
        if split not in self._kept or not batch.rows:
            return (mx.array(batch.inputs), *_targets_of(batch))
        width = batch.inputs.shape[1]
        rows = [self._kept[split][row] for row in batch.rows]
        outputs = mx.stack([mx.pad(row, [(0, width - row.shape[0]), (0, 0)]) for row in rows])
        return (outputs, *_targets_of(batch))

    def loss(
        self, inputs: mx.array, positions: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        return _weighted_loss(self._head(self.outputs(inputs, positions)), targets, weights)

    def outputs(self, inputs: mx.array, positions: mx.array) -> mx.array:
        """What the body computes at `positions` of `inputs`: tokens, or kept outputs."""
        lower = inputs[:, :-1]
        if inputs.ndim == 2:
            lower = self._run_lower(lower)
        if self._shared is None:
            return _rows_at(self._upper(lower), positions)
        # Gradients flow through the shared tokens too, so they run in every batch.
        recorders = [KVRecorder() for _ in self._upper.layers]
        self._upper(self._shared, cache=recorders)
        return _rows_at(self._upper(lower, cache=self._caches(recorders)), positions)

    def _run_lower(self, inputs: mx.array) -> mx.array:
        if self._lower is None:
            return inputs
        return mx.stop_gradient(self._lower(inputs, cache=self._lower_cache))

    def _caches(self, recorders: list[KVRecorder]) -> list[SharedPrefixCache]:
        return [
            SharedPrefixCache(seen.keys, seen.values, additive=self._on_cpu) for seen in recorders
        ]


class KVRecorder:
    """A layer's cache that records the keys and values of the shared tokens."""

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


class SharedPrefixCache:
    """A layer's cache that puts the shared tokens before every row.

    The mask is additive on a CPU, where a select costs 25 times as much as an addition.
    """

    def __init__(self, keys: mx.array, values: mx.array, *, additive: bool) -> None:
        self._keys, self._values = keys, values
        self._additive = additive
        self.offset = keys.shape[-2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return _prepended(self._keys, keys), _prepended(self._values, values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if not return_array and not self._additive and not window_size:
            return None if n == 1 else "causal"
        seen = create_causal_mask(n, offset=self.offset, window_size=window_size)
        if return_array or not self._additive:
            return seen
        return mx.where(seen, mx.array(0, self._keys.dtype), mx.finfo(self._keys.dtype).min)


def select_forward(
    model: Module,
    splits: Mapping[str, TokenRows],
    job: TrainingJob,
    on_event: Listener,
    check_interrupts: Callable[[], None],
) -> Forward:
    """The forward pass with the least work for this model and these rows, ready to use.

    Raises:
        MemoryLimitError, StopRequestedError: from `check_interrupts`, while outputs are computed.
    """
    rows = {name: split for name, split in splits.items() if len(split)}
    # Gradient checkpointing recomputes a block after it was left, when the shared tokens' cache
    # is gone.
    shared = 0 if job.checkpointing else shared_tokens(list(rows.values()))
    frozen = len(model.layers) - trained_layers(model, job.options)
    model.eval()
    forward = select_forward_by_agreement(
        model, rows["train"], shared=shared, frozen=frozen, on_cpu=on_cpu()
    )
    if isinstance(forward, SplitForward) and forward.frozen:
        memory = job.limits.max_memory_gb * GIB * KEPT_SHARE
        # Validation rows come again at every validation, training rows only in a second epoch.
        used_again = ["valid"] + ["train"] * (job.options.settings.num_train_epochs > 1)
        for name in [name for name in used_again if name in rows]:
            own = rows[name].without_prefix(forward.prefix)
            size = len(own.tokens) * forward.bytes_per_token
            if size <= memory:
                memory -= size
                text = f"computing the untrained layers once, for {len(own)} {name} rows"
                on_event(Notice(text))
                forward.keep(name, own, check_interrupts)
    model.train()
    return forward


def select_forward_by_agreement(
    model: Module, rows: TokenRows, *, shared: int, frozen: int, on_cpu: bool
) -> Forward:
    """The forward pass with the least work that is right for `model`, tested on some of `rows`.

    Args:
        shared: the number of tokens that all rows start with; 0 turns sharing off.
        frozen: the number of layers below the trained ones.
    """
    try:
        if not _is_body_and_head(model, rows):
            return WholeForward(model)
        plain = SplitForward(model, rows[0][:0], 0, on_cpu=on_cpu)
        tokens = rows[0][: shared if shared >= MIN_SHARED else 0]
        if not len(tokens) and not frozen:
            return plain
    except MISFITS:
        return WholeForward(model)
    try:
        forward = SplitForward(model, tokens, frozen, on_cpu=on_cpu)
        return forward if _agree(plain, forward, rows) else plain
    except MISFITS:
        return plain


def _is_body_and_head(model: Module, rows: TokenRows) -> bool:
    """Whether body and output layer give the model's logits to the bit.

    Capped or scaled logits differ in bits even where they are small.
    """
    longest = rows[int(rows.lengths.argmax())]
    tokens = mx.array(longest[None])
    whole, parts = model(tokens), _output_layer(model)(model["model"](tokens))
    return whole.shape == parts.shape and bool(mx.all(whole == parts))


def _agree(one: SplitForward, other: SplitForward, rows: TokenRows) -> bool:
    """Whether both compute the same outputs for the shortest and the longest row."""
    pair = sorted({int(rows.lengths.argmin()), int(rows.lengths.argmax())})
    outputs = []
    for forward in (one, other):
        batch = assemble(rows.without_prefix(forward.prefix), pair, weight=1.0, multiple=1)
        inputs, positions, *_ = forward.arrays("sample", batch)
        outputs.append(forward.outputs(inputs, positions))
    whole, parts = outputs
    difference = mx.abs(whole - parts).max() / mx.abs(whole).max()
    return float(difference) < ROUNDING[whole.dtype]


def _view(body: Module, **replaced: Any) -> Module:
    """A model's body with some parts replaced, sharing all others with it."""
    other = copy.copy(body)
    for name, part in replaced.items():
        if name not in body:
            raise KeyError(name)
        other[name] = part
    return other


def _output_layer(model: Module) -> Callable[[mx.array], mx.array]:
    head: Callable[[mx.array], mx.array] = (
        model["lm_head"] if "lm_head" in model else model["model"]["embed_tokens"].as_linear
    )
    return head


def _rows_at(outputs: mx.array, positions: mx.array) -> mx.array:
    return outputs.reshape(-1, outputs.shape[-1])[positions]


def _prepended(shared: mx.array, own: mx.array) -> mx.array:
    spread = mx.broadcast_to(shared, (own.shape[0], *shared.shape[1:]))
    return mx.concatenate([spread, own], axis=-2)


def _targets_of(batch: TrainingBatch) -> Arrays:
    return mx.array(batch.positions), mx.array(batch.targets), mx.array(batch.weights)


def _weighted_loss(
    logits: mx.array, targets: mx.array, weights: mx.array
) -> tuple[mx.array, mx.array]:
    losses = cross_entropy(logits.astype(mx.float32), targets)
    return (losses * weights).sum(), (weights > 0).sum()
