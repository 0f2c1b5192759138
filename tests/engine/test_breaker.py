from __future__ import annotations

import pytest

from nanodistill.engine.circuit_breaker import (
    FAILURES_TO_SUSPECT,
    ROUNDS_AFTER_AN_ANSWER,
    ROUNDS_BEFORE_ANY_ANSWER,
    SAME_ROW_FAILURES,
    CircuitBreaker,
)
from nanodistill.errors import TransientError


def refusal(retry_after: float | None = None) -> TransientError:
    return TransientError("rate_limit", "slow down", status=429, retry_after=retry_after)


DOWN = TransientError("connection", "connection refused")


def well() -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.answered()
    return breaker


def fail_rounds(breaker: CircuitBreaker, error: TransientError) -> tuple[int, float]:
    """Try again after each pause until it trips: how many calls that took, and how long."""
    now, calls = 0.0, 0
    while breaker.reason is None:
        now = max(now, breaker.paused_until) + 0.1
        breaker.failed(error, now, now)
        calls += 1
    return calls, now


def test_one_call_at_a_time_until_the_first_answer() -> None:
    assert CircuitBreaker().is_half_open
    assert not well().is_half_open


def test_a_single_failure_is_its_rows_own() -> None:
    breaker = well()
    assert breaker.failed(DOWN, 0.0, 1.0)
    assert (breaker.paused_until, breaker.is_half_open) == (0.0, False)


def test_many_failures_in_a_row_are_the_providers() -> None:
    breaker = well()
    held = [breaker.failed(DOWN, 0.0, 1.0) for _ in range(20)]
    assert held.count(True) == FAILURES_TO_SUSPECT - 1
    assert breaker.paused_until > 1.0


def test_the_asked_wait_is_kept_exactly_at_first() -> None:
    breaker = well()
    breaker.failed(refusal(0.2), 0.0, 1.0)
    assert breaker.paused_until == pytest.approx(1.2)


def test_refusals_of_calls_launched_before_the_pause_are_one_round() -> None:
    breaker = well()
    for n in range(100):
        breaker.failed(refusal(2.0), 0.0, 1.0 + n / 1000)
    assert breaker.reason is None
    assert breaker.paused_until == pytest.approx(3.099)


def test_pauses_grow_until_it_trips() -> None:
    calls, took = fail_rounds(well(), refusal(1.0))
    assert calls == ROUNDS_AFTER_AN_ANSWER + 1
    assert 60 < took < 90


def test_a_provider_that_is_not_there_is_given_up_soon() -> None:
    calls, took = fail_rounds(CircuitBreaker(), DOWN)
    assert calls == ROUNDS_BEFORE_ANY_ANSWER + 1
    assert took < 10


def test_the_reason_is_plain() -> None:
    breaker = well()
    fail_rounds(breaker, refusal(1.0))
    assert "answered none of the last 7 calls" in str(breaker.reason)
    assert "HTTP 429, rate_limit: slow down" in str(breaker.reason)


def test_an_answer_ends_it() -> None:
    breaker = well()
    for now in range(5):
        breaker.failed(refusal(0.0), float(now), float(now))
    breaker.answered()
    assert not breaker.is_half_open
    calls, _ = fail_rounds(breaker, refusal(1.0))
    assert calls == ROUNDS_AFTER_AN_ANSWER + 1


def test_a_wait_of_an_hour_is_no_wait() -> None:
    breaker = well()
    breaker.failed(refusal(3600.0), 0.0, 0.0)
    assert "asks to wait 60 minutes" in str(breaker.reason)


def test_rows_lost_alike_one_after_the_other_trip_it() -> None:
    breaker = well()
    reasons = []
    for _ in range(SAME_ROW_FAILURES):
        breaker.row_lost("content_filter", "no")
        reasons.append(breaker.reason)
    assert reasons[:-1] == [None] * (SAME_ROW_FAILURES - 1)
    assert f"{SAME_ROW_FAILURES} rows in a row" in str(reasons[-1])


@pytest.mark.parametrize(("answered_before", "most"), [(100, 25), (1000, 50), (90_000, 100)])
def test_a_teacher_that_has_answered_many_may_lose_more_rows(
    answered_before: int, most: int
) -> None:
    breaker = CircuitBreaker(answered_before)
    for _ in range(most - 1):
        breaker.row_lost("timeout", "no answer")
    assert breaker.reason is None
    breaker.row_lost("timeout", "no answer")
    assert breaker.reason is not None


def test_rows_lost_among_others_do_not() -> None:
    breaker = well()
    for n in range(10 * SAME_ROW_FAILURES):
        breaker.row_lost("content_filter" if n % 3 else "malformed", "no")
    for _ in range(10 * SAME_ROW_FAILURES):
        breaker.row_lost("malformed", "no")
        breaker.row_done()
    assert breaker.reason is None
