"""How the next token is chosen.

Each request samples with its own random numbers: its i-th token uses the i-th number of
its seed, whatever else is in the batch and whenever it joined. What remains are the
last bits of the logits, which depend on the shape of the batch. They matter only where
a random number falls almost exactly between two tokens, or two tokens are almost even.
Measured with SmolLM2-135M in float32 at temperature 0.9: 96 answers of 55 tokens were
all the same in another order and a batch of another size.

The order is that of Hugging Face's logits processors: temperature, then top_k, top_p
and min_p, each on what the one before left. The probabilities are laid end to end in
order of token id, and the token is the one in which the random number falls.

There are two implementations, tested to agree: numpy where the logits are in the CPU's
memory anyway (MLX sorts a vocabulary 20 times slower there), and MLX on a GPU, whose
queue a detour over numpy would drain at every token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.core as mx
    from numpy.typing import NDArray

    Processor = Callable[[mx.array, mx.array], mx.array]
    """Takes a request's tokens so far, prompt included, and its logits (1, vocabulary)."""
    Sampler = Callable[[mx.array], mx.array]

# The heaviest tokens that are sorted first to find a filter's threshold. They nearly always hold
# it; if not, the whole vocabulary is sorted. Fewer fall back more often, more sort longer.
CANDIDATES = 256


@dataclass(frozen=True)
class Sampling:
    """How one request is sampled.

    Attributes:
        temperature: 0 takes the most likely token each time.
        top_p, top_k, min_p: filters; the defaults filter nothing.
        repetition_penalty: divides positive logits, and multiplies negative ones, of tokens in
            prompt or answer; 1 is none.
        stop: sequences that end an answer and are not part of it.
        seed: None for new random numbers each time.

    Raises:
        ValueError: a value is out of range.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for valid, message in (
            (self.max_tokens >= 1, f"max_tokens is {self.max_tokens}, must be at least 1"),
            (self.temperature >= 0, f"temperature is {self.temperature}, must not be negative"),
            (0 < self.top_p <= 1, f"top_p is {self.top_p}, must be above 0 and at most 1"),
            (self.top_k >= 0, f"top_k is {self.top_k}, must not be negative"),
            (0 <= self.min_p <= 1, f"min_p is {self.min_p}, must be from 0 to 1"),
            (
                self.repetition_penalty > 0,
                f"repetition_penalty is {self.repetition_penalty}, must be above 0",
            ),
            (all(self.stop), "stop has an empty sequence, which would end every answer at once"),
        ):
            if not valid:
                raise ValueError(message)

    @property
    def filters(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def make_sampler(sampling: Sampling) -> Sampler:
    """A sampler for mlx_lm and one request; it holds that request's random numbers."""
    import mlx.core as mx
    from mlx_lm.sample_utils import greedy_sampler

    if sampling.temperature == 0:
        # The same function for all requests lets mlx_lm sample the whole batch in one call.
        greedy: Sampler = greedy_sampler
        return greedy
    numbers = random.Random(sampling.seed)
    if mx.default_device() == mx.cpu:
        import numpy as np

        def sample_row(logprobs: mx.array) -> mx.array:
            row = np.array(logprobs.astype(mx.float32), copy=False)[0]
            return mx.array([sample_numpy(row, sampling, numbers.random())], dtype=mx.uint32)

        return sample_row
    return lambda logprobs: sample_mlx(logprobs, sampling, numbers.random())


def sample_numpy(logprobs: NDArray[Any], sampling: Sampling, number: float) -> int:
    """The token in which `number` (0 to 1) falls, for logprobs of shape (vocabulary,)."""
    import numpy as np

    weights = np.exp((logprobs - logprobs.max()) / np.float32(sampling.temperature))
    if sampling.filters:
        weights[weights < _threshold(weights, sampling)] = 0
    cumulative = np.cumsum(weights, dtype=np.float64)
    token = int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))
    return min(token, len(cumulative) - 1)


def _threshold(weights: NDArray[Any], sampling: Sampling) -> float:
    """The smallest weight that passes the filters."""
    import numpy as np

    for count in (CANDIDATES, len(weights)):
        if count < len(weights):
            heaviest = np.sort(np.partition(weights, -count)[-count:])[::-1]
        else:
            heaviest = np.sort(weights)[::-1]
        threshold = _threshold_among(heaviest, weights, sampling)
        if threshold is not None:
            return threshold
    raise AssertionError("no threshold among all weights")


def _threshold_among(
    heaviest: NDArray[Any], weights: NDArray[Any], sampling: Sampling
) -> float | None:
    """The threshold, or None if it is below all of `heaviest` (in descending order)."""
    import numpy as np

    complete = len(heaviest) >= len(weights)
    limit = 0.0
    kept = heaviest
    total = float(weights.sum(dtype=np.float64))
    if 0 < sampling.top_k < len(weights):
        if sampling.top_k > len(heaviest):
            return None
        limit = float(heaviest[sampling.top_k - 1])
        kept = heaviest[heaviest >= limit]
        total = float(kept.sum(dtype=np.float64))
        complete = True
    if sampling.top_p < 1:
        mass = np.cumsum(kept, dtype=np.float64)
        inside = int(np.searchsorted(mass, sampling.top_p * total))
        if inside >= len(kept):
            if not complete:
                return None
            inside = len(kept) - 1
        limit = max(limit, float(kept[inside]))
    return max(limit, sampling.min_p * float(heaviest[0]))


def sample_mlx(logprobs: mx.array, sampling: Sampling, number: float) -> mx.array:
    """The same for an mlx array of shape (batch, vocabulary); evaluated lazily."""
    import mlx.core as mx

    logprobs = logprobs.astype(mx.float32)
    top = mx.max(logprobs, axis=-1, keepdims=True)
    weights = mx.exp((logprobs - top) / sampling.temperature)
    if sampling.filters:
        weights = _filter_by_mlx(weights, sampling)
    cumulative = mx.cumsum(weights, axis=-1)
    below = mx.sum(cumulative <= number * cumulative[..., -1:], axis=-1)
    return mx.minimum(below, weights.shape[-1] - 1).astype(mx.uint32)


def _filter_by_mlx(weights: mx.array, sampling: Sampling) -> mx.array:
    import mlx.core as mx

    ascending = mx.sort(weights, axis=-1)
    if 0 < sampling.top_k < weights.shape[-1]:
        limit = ascending[..., -sampling.top_k][..., None]
        ascending = mx.where(ascending >= limit, ascending, 0)
        weights = mx.where(weights >= limit, weights, 0)
    if sampling.top_p < 1:
        above = mx.cumsum(ascending, axis=-1, reverse=True, inclusive=False)
        outside = above >= sampling.top_p * mx.sum(ascending, axis=-1, keepdims=True)
        first_inside = mx.sum(outside, axis=-1, keepdims=True)
        weights = mx.where(
            weights >= mx.take_along_axis(ascending, first_inside, axis=-1), weights, 0
        )
    top = mx.max(weights, axis=-1, keepdims=True)
    return mx.where(weights >= sampling.min_p * top, weights, 0)


def make_processors(sampling: Sampling, own: Sequence[Processor]) -> list[Processor]:
    """The logits processors of a request: its repetition penalty, then its own."""
    from mlx_lm.sample_utils import make_repetition_penalty

    if sampling.repetition_penalty == 1:
        return list(own)
    whole_context = 1 << 30
    penalty: Processor = make_repetition_penalty(sampling.repetition_penalty, whole_context)
    return [penalty, *own]
