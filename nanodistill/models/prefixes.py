"""The beginning that many prompts share is read once.

The prompts of a run begin with the same instruction, often the same examples;
reading them again for every request is most of a local teacher's work. Here
the caches of such beginnings are kept: one that three of the last prompts have
shared is read by itself, and later prompts go on from there. Only for models
whose layers all keep plain keys and values.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module

KEPT = 4
RECENT = 16
SHARED_BY = 3
WORTH = 32
"""Tokens that a beginning must save to be worth reading by itself."""
READ_AT_ONCE = 512

Tokens = tuple[int, ...]
Caches = list[Any]


class Prefixes:
    """Beginnings of prompts with what a model keeps of them. For one thread."""

    def __init__(self, model: Module) -> None:
        self._model = model
        self._kept: OrderedDict[Tokens, Caches] = OrderedDict()
        self._recent: deque[Tokens] = deque(maxlen=RECENT)
        self._possible = all(_is_plain_and_empty(cache) for cache in _new_caches(model))

    def of(self, prompt: Sequence[int]) -> tuple[Caches | None, int]:
        """The caches of the longest beginning of `prompt` that is kept, and its length.

        At least one token of the prompt is left to read. The caches must not be written to.
        """
        if not self._possible:
            return None, 0
        tokens = tuple(prompt)
        known = self._longest_kept(tokens)
        shared = self._shared(tokens)
        self._recent.append(tokens)
        if shared >= len(known) + WORTH:
            known = self._read(tokens[:shared])
        if not known:
            return None, 0
        self._kept.move_to_end(known)
        return self._kept[known], len(known)

    def _longest_kept(self, tokens: Tokens) -> Tokens:
        fitting = (k for k in self._kept if len(k) < len(tokens) and tokens[: len(k)] == k)
        return max(fitting, key=len, default=())

    def _shared(self, tokens: Tokens) -> int:
        """How many tokens at the beginning at least `SHARED_BY` of the recent prompts share."""
        lengths = sorted((_common(tokens, other) for other in self._recent), reverse=True)
        most = lengths[SHARED_BY - 1] if len(lengths) >= SHARED_BY else 0
        return min(most, len(tokens) - 1)

    def _read(self, tokens: Tokens) -> Tokens:
        import mlx.core as mx

        caches = _new_caches(self._model)
        for start in range(0, len(tokens), READ_AT_ONCE):
            self._model(mx.array([tokens[start : start + READ_AT_ONCE]]), cache=caches)
            mx.eval([cache.state for cache in caches])
        self._kept[tokens] = caches
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return tokens


def _common(a: Tokens, b: Tokens) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _new_caches(model: Module) -> Caches:
    from mlx_lm.models.cache import make_prompt_cache

    caches: Caches = make_prompt_cache(model)
    return caches


def _is_plain_and_empty(cache: Any) -> bool:
    """A cache that is filled from the start is somebody else's way of doing this."""
    from mlx_lm.models.cache import KVCache

    return type(cache) is KVCache and cache.empty()
