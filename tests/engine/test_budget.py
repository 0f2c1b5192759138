from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from providers.opened import config, request

from nanodistill.engine.budget import Before, Budget, Reservation, Size
from nanodistill.journal import UsageTotals
from nanodistill.providers.prices import Price
from nanodistill.types import Usage

PRICE = Price(input=1e-6, output=4e-6, cached=0.5e-6)
SMALL = Size.of(request("hello", max_tokens=100))


def budget(before: UsageTotals | None = None, **limits: Any) -> Budget:
    prices = {"openai/any": PRICE}
    return Budget(config(**limits), prices, Before(before or UsageTotals()), lambda note: None)


def test_calls_in_flight_count() -> None:
    limited = budget(max_calls=2)
    assert limited.reserve(SMALL)
    assert limited.reserve(SMALL)
    assert limited.reserve(SMALL) is None
    assert "max_calls is 2, and 2 calls were made" in str(limited.exhausted(SMALL))


def test_earlier_sessions_count() -> None:
    before = UsageTotals(calls=5, usage=Usage(600, 300), cost_usd=0.9)
    assert budget(before, max_calls=5).reserve(SMALL) is None
    assert budget(before, max_tokens_total=1000).reserve(SMALL) is None
    assert budget(before, max_cost_usd=0.9).reserve(SMALL) is None
    assert budget(before, max_calls=6, max_tokens_total=2000, max_cost_usd=1.0).reserve(SMALL)


def test_what_came_back_smaller_makes_room() -> None:
    limited = budget(max_tokens_total=300)
    first = limited.reserve(SMALL)
    second = limited.reserve(SMALL)
    assert first is not None
    assert second is not None
    assert limited.reserve(SMALL) is None
    limited.settle(first, Usage(20, 10), None)
    assert limited.reserve(SMALL)


def test_the_reason_has_the_figures_and_the_way_out() -> None:
    said = str(budget(UsageTotals(cost_usd=0.9999), max_cost_usd=1.0).exhausted(SMALL))
    assert "max_cost_usd is $1, $0.9999 were spent" in said
    assert "Raise max_cost_usd" in said


def test_estimates_learn_from_what_came_back() -> None:
    open_ended = Size.of(request("hello " * 100))
    limited = budget()
    unknown = limited.estimator.highest(open_ended)
    for tokens in (50, 100, 30):
        limited.estimator.learn(open_ended, Usage(200, tokens))
    known = limited.estimator.highest(open_ended)
    assert known.completion_tokens == 200 < unknown.completion_tokens
    assert known.prompt_tokens == pytest.approx(200, abs=2)
    assert limited.estimator.typical(open_ended).completion_tokens == 75


def test_a_limit_on_the_answer_is_the_highest_estimate() -> None:
    assert budget().estimator.highest(SMALL).completion_tokens == 100


@given(
    cap=st.integers(500, 50_000),
    together=st.integers(1, 100),
    longest=st.integers(1, 600),
    seed=st.integers(0, 5),
)
def test_limits_hold_with_many_calls_in_flight(
    cap: int, together: int, longest: int, seed: int
) -> None:
    """With a limit on the answers the sum stays below the cap, whatever comes back, and when."""
    random, limited = Random(seed), budget(max_tokens_total=cap)
    size = Size.of(request("hello", max_tokens=longest))
    flying: list[Reservation] = []
    while True:
        while len(flying) < together and (reservation := limited.reserve(size)) is not None:
            flying.append(reservation)
        if not flying:
            break
        back = flying.pop(random.randrange(len(flying)))
        limited.settle(back, Usage(15, random.randint(0, longest)), None)
    assert cap - limited.estimator.highest(size).total_tokens < limited.tokens <= cap


@given(answers=st.lists(st.integers(1, 2000), min_size=1, max_size=200))
def test_without_a_limit_on_answers_a_cap_is_passed_by_the_error_of_one_call(
    answers: list[int],
) -> None:
    """One at a time: each call that is longer than anything before can err once, at the end."""
    cap, limited = 20_000, budget(max_tokens_total=20_000)
    size = Size.of(request("hello"))
    for tokens in answers:
        reservation = limited.reserve(size)
        if reservation is None:
            break
        limited.estimator.learn(size, Usage(15, tokens))
        limited.settle(reservation, Usage(15, tokens), None)
    assert limited.tokens <= cap + max(answers)
