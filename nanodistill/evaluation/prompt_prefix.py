"""A beginning that all prompts share is read once.

The instruction stands at the head of every prompt, and examples behind it where
they are shown; on a CPU reading them is most of the work. `after_prefix` gives
a model that has already read the beginning, and the prompts without it:
batched generation asks the model for each prompt's cache, and gets one that is
filled. The answers are those of the whole prompts but for the last bits of the
logits, which depend on the shape of a batch anyway.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

SHORTEST = 16
"""A shorter beginning is not worth a pass of its own."""
READ_AT_ONCE = 512

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class AfterPrefix:
    """A model that has read the first `length` tokens, and what is left of the prompts."""

    loaded: LoadedModel
    length: int
    prompts: list[Tokens]


class HasRead:
    """A model whose new caches are already filled. In all else it is the model."""

    def __init__(self, model: Any, filled: list[Any]) -> None:
        self._model = model
        self._filled = filled

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        return self._model(tokens, cache=cache)

    def make_cache(self) -> list[Any]:
        return [copy.copy(layer) for layer in self._filled]


def after_prefix(loaded: LoadedModel, prompts: Sequence[Tokens]) -> AfterPrefix:
    """Let the model read what all `prompts` begin with; nothing where that does not pay."""
    length = shared_length(prompts) if len(prompts) > 1 else 0
    filled = _read(loaded.model, prompts[0][:length]) if length >= SHORTEST else None
    if filled is None:
        return AfterPrefix(loaded, 0, list(prompts))
    model: Any = HasRead(loaded.model, filled)
    rest = [prompt[length:] for prompt in prompts]
    return AfterPrefix(dataclasses.replace(loaded, model=model), length, rest)


def shared_length(prompts: Sequence[Tokens]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    most = min(len(prompt) for prompt in prompts) - 1
    different = (i for i in range(most) if first[i] != last[i])
    return next(different, max(most, 0))


def _read(model: Any, tokens: Tokens) -> list[Any] | None:
    """Caches filled with `tokens`, or None for a model whose caches are of another kind."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache, make_prompt_cache

    caches: list[Any] = make_prompt_cache(model)
    if any(type(cache) is not KVCache for cache in caches):
        return None
    for start in range(0, len(tokens), READ_AT_ONCE):
        model(mx.array([tokens[start : start + READ_AT_ONCE]]), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches
