"""Shared beginnings are read once, and the answers stay what they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from nanodistill.models.batching import KEPT, MIN_SAVED, SHARED_BY, PrefixCache
from nanodistill.models.generation import generate_batch
from nanodistill.models.sampling import Sampling

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

BEGINNING = [5 + (7 * i) % 200 for i in range(100)]
PROMPTS = [[*BEGINNING, 30 + i, *range(40, 50 + i)] for i in range(12)]


class Counting:
    """The model, counting the tokens that it reads."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = model.layers
        self.tokens = 0

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        self.tokens += tokens.size
        return self._model(tokens, cache=cache)


@pytest.fixture
def counted(tiny_model: LoadedModel) -> tuple[LoadedModel, Counting]:
    counting: Any = Counting(tiny_model.model)
    return replace(tiny_model, model=counting), counting


def test_a_shared_beginning_is_read_once(counted: tuple[LoadedModel, Counting]) -> None:
    loaded, counting = counted
    answers = generate_batch(loaded, PROMPTS, Sampling(1), max_batch=4)
    beginnings = (SHARED_BY + 1) * len(BEGINNING)
    own = sum(len(prompt) - len(BEGINNING) for prompt in PROMPTS)
    padding_and_drawing = 12 * len(PROMPTS)
    assert counting.tokens <= beginnings + own + padding_and_drawing
    assert [answer.prompt_tokens for answer in answers] == [len(p) for p in PROMPTS]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_the_answers_are_the_same(tiny_model: LoadedModel, penalty: float) -> None:
    """With a penalty too, which looks at the whole prompt."""
    samplings = [
        Sampling(25, temperature=0.7, seed=i, repetition_penalty=penalty)
        for i in range(len(PROMPTS))
    ]
    together = generate_batch(tiny_model, PROMPTS, samplings, max_batch=4)
    alone = [
        generate_batch(tiny_model, [prompt], sampling, max_batch=1)[0]
        for prompt, sampling in zip(PROMPTS, samplings, strict=True)
    ]
    assert together == alone


def test_a_whole_prompt_that_is_kept_leaves_a_token_to_read(tiny_model: LoadedModel) -> None:
    prefixes = PrefixCache(tiny_model.model)
    for _ in range(SHARED_BY):
        assert prefixes.lookup(BEGINNING) == (None, 0)
    _, length = prefixes.lookup(BEGINNING)
    assert length == len(BEGINNING) - 1
    assert prefixes.lookup(BEGINNING[: length + 1])[1] == length
    assert prefixes.lookup(BEGINNING[:length])[1] < length


def test_what_few_prompts_share_is_not_read_by_itself(tiny_model: LoadedModel) -> None:
    prefixes = PrefixCache(tiny_model.model)
    short = BEGINNING[: MIN_SAVED - 1]
    assert [prefixes.lookup([*short, i, i + 1])[1] for i in range(50, 60)] == [0] * 10
    others = [[i] * 60 for i in range(10)]
    assert [prefixes.lookup(other)[1] for other in others] == [0] * 10


def test_only_the_last_used_are_kept(tiny_model: LoadedModel) -> None:
    prefixes = PrefixCache(tiny_model.model)

    def use(i: int) -> int:
        return prefixes.lookup([*([60 + i] * 40), 7, 8])[1]

    for i in range(KEPT + 1):
        for _ in range(SHARED_BY + 1):
            length = use(i)
        assert length == 41
    assert use(1) == 41
    assert use(0) == 0
