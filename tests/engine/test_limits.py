from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.simulation import (
    Batching,
    Bucket,
    Open,
    Outcome,
    Queueing,
    Server,
    Simulation,
    Slots,
    Verdict,
    Windowed,
)  # fmt: skip
from nanodistill.engine.rate_limiter import RateLimiter
from nanodistill.errors import TransientError
from nanodistill.providers.base import RateHints


def admission(
    most: int = 200, requests: float | None = None, tokens: float | None = None
) -> RateLimiter:
    return RateLimiter(most, requests, tokens)


def against(server: Server, calls: int, **limits: float) -> Outcome:
    return Simulation(admission(**limits), server, calls).run()  # type: ignore[arg-type]


def most_in_any(times: Sequence[float], span: float, weights: Sequence[int] | None = None) -> int:
    """The largest sum of `weights` (1 each) in any window of `span` seconds, ends included."""
    sums = [0]
    for weight in weights or [1] * len(times):
        sums.append(sums[-1] + weight)
    return max(
        (sums[bisect_right(times, at + span)] - sums[n] for n, at in enumerate(times)), default=0
    )


@settings(max_examples=40, deadline=None)
@given(
    per_minute=st.integers(1, 2000),
    latency=st.floats(0.001, 20),
    calls=st.integers(1, 400),
    most=st.integers(1, 300),
)
def test_requests_per_minute_hold_in_every_window(
    per_minute: int, latency: float, calls: int, most: int
) -> None:
    outcome = against(Open(latency=latency), calls, most=most, requests=per_minute)
    assert len(outcome.answers) == calls
    assert most_in_any(outcome.launches, 60.0) <= per_minute
    assert outcome.most_in_flight <= most


@settings(max_examples=40, deadline=None)
@given(
    per_minute=st.integers(100, 100_000),
    longest=st.integers(1, 300),
    latency=st.floats(0.001, 20),
    seed=st.integers(0, 9),
)
def test_tokens_per_minute_hold_in_every_window(
    per_minute: int, longest: int, latency: float, seed: int
) -> None:
    random, taken = Random(seed), list[int]()

    def tokens() -> int:
        taken.append(random.randint(1, longest))
        return taken[-1]

    gate = admission(tokens=per_minute)
    outcome = Simulation(gate, Open(latency=latency), 200, tokens, longest, jitter=0.0).run()
    if longest <= per_minute:
        assert most_in_any(outcome.launches, 60.0, taken) <= per_minute
    else:
        assert most_in_any(outcome.launches, 60.0) == 1


def test_requests_per_minute_are_made_use_of() -> None:
    outcome = against(Open(latency=1.0), 1200, requests=600)
    assert 0.97 <= outcome.rate(since=5.0) / 10.0 <= 1.0


def test_tokens_per_minute_are_made_use_of() -> None:
    outcome = against(Open(latency=1.0), 1200, tokens=60_000)
    assert 0.95 <= outcome.rate(since=5.0) / 10.0 <= 1.0


TEN_A_SECOND: dict[str, Callable[..., Server]] = {
    "in any second": Windowed,
    "in each second": partial(Windowed, fixed=True),
    "in any second, says how long": partial(Windowed, exact=True),
    "in any second, does not say how long": partial(Windowed, retry_after=None),
    "a bucket of 10": partial(Bucket, size=10.0),
    "a bucket of 30": partial(Bucket, size=30.0),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latency", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("limit", TEN_A_SECOND)
def test_ten_a_second_are_found_and_kept(limit: str, latency: float, seed: int) -> None:
    """Of a rate that nobody told us: 95% of it, and fewer than 2% of the requests refused."""
    server = TEN_A_SECOND[limit](latency=latency)
    outcome = Simulation(admission(), server, 600, random=Random(seed)).run()
    assert len(outcome.answers) == 600
    assert outcome.rate(since=4.0 + 20 * latency) >= 9.5
    assert outcome.refused < 0.02


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latency", [0.1, 0.9])
def test_calls_that_are_held_up_on_their_way_are_not_refused(latency: float, seed: int) -> None:
    """A busy machine: late by more than what the pace leaves between two windows."""
    server = Windowed(latency=latency)
    outcome = Simulation(admission(), server, 600, jitter=0.03, random=Random(seed)).run()
    assert outcome.rate(since=10.0) >= 9.3
    assert outcome.refused < 0.01


def test_a_limit_per_minute_is_found() -> None:
    outcome = against(Windowed(latency=0.5, most=600, span=60.0, exact=True), 3000)
    assert outcome.end < 310
    assert outcome.refused < 0.02


def test_a_raised_limit_is_found() -> None:
    server = Windowed()
    simulation = Simulation(admission(), server, 100_000, until=60.0)
    simulation.run()
    server.most = 40
    simulation.until = 400.0
    assert simulation.run().rate(since=350.0) > 25


def test_a_lowered_limit_is_found() -> None:
    server = Windowed(most=40)
    simulation = Simulation(admission(), server, 100_000, until=60.0)
    simulation.run()
    server.most = 10
    simulation.until = 120.0
    after = simulation.run()
    assert after.rate(since=90.0) > 8.5
    assert after.refused < 0.05


@pytest.mark.parametrize("retry_after", [0.5, 3.0, 20.0])
def test_a_refusal_pauses_every_launch(retry_after: float) -> None:
    outcome = against(Windowed(most=20, span=5.0, retry_after=retry_after), 200)
    for refused in outcome.refusals:
        later = [at for at in outcome.launches if at > refused + 0.002]
        assert not later or min(later) >= refused + retry_after


def test_concurrency_grows_to_its_cap_while_that_helps() -> None:
    outcome = against(Open(latency=2.0), 2000, most=150)
    assert outcome.limits[-1][1] == outcome.most_in_flight == 150
    assert outcome.limits[0][1] <= 16


@pytest.mark.parametrize("slots", [4, 8, 32])
def test_a_server_that_queues_in_silence_is_not_swamped(slots: int) -> None:
    outcome = against(Slots(latency=0.5, slots=slots), 4000)
    settled = [limit for at, limit in outcome.limits if at > outcome.end / 3]
    assert slots <= sum(settled) / len(settled) <= max(4 * slots, 24)
    assert len(outcome.answers) / outcome.end > 0.95 * slots / 0.5


def test_a_server_that_batches_is_kept_busy() -> None:
    """Latency that rises with concurrency, but pays: no reason to stop growing."""

    outcome = against(Batching(), 4000, most=100)
    assert outcome.limits[-1][1] == 100


def test_overload_shrinks_the_level_once_for_all_in_flight() -> None:
    gate = admission()
    tickets = []
    for _ in range(2):
        tickets = [gate.launched("generate", 0.0, 1) for _ in range(8)]
        for ticket in tickets:
            gate.answered(ticket, 1.0, 1, None)
    before = gate.limit
    tickets = [gate.launched("generate", 2.0, 1) for _ in range(8)]
    for ticket in tickets:
        gate.failed(ticket, 3.0, TransientError("overloaded", "busy", status=529, retry_after=1.0))
    assert gate.limit == int(0.7 * before)
    assert gate.wait(3.5, 1) > 0


def test_limits_in_headers_are_kept() -> None:
    class Telling(Open):
        def arrive(self, now: float) -> Verdict:
            return Verdict(0.1, hints=RateHints(requests_per_minute=300.0, remaining_requests=5))

    outcome = against(Telling(), 600)
    assert most_in_any([at for at in outcome.launches if at > 1], 60.0) <= 300
    assert outcome.rate(since=5.0) >= 0.95 * 5


def test_a_request_that_is_sent_again_within_its_call_counts() -> None:
    paced, twice = admission(requests=60), admission(requests=60)
    for gate in (paced, twice):
        gate.launched("generate", 0.0, 1)
    twice.sent_again(0.0)
    assert twice.wait(0.0, 1) == pytest.approx(2 * paced.wait(0.0, 1), rel=0.05)


def test_the_users_own_limit_goes_before_a_higher_one_in_headers() -> None:
    class Telling(Open):
        def arrive(self, now: float) -> Verdict:
            return Verdict(0.1, hints=RateHints(requests_per_minute=1e6, tokens_per_minute=1e9))

    outcome = against(Telling(), 200, requests=120)
    assert most_in_any(outcome.launches, 60.0) <= 120


def test_spent_limits_in_headers_pause_until_they_are_refilled() -> None:
    gate = admission()
    ticket = gate.launched("generate", 0.0, 1)
    gate.answered(ticket, 1.0, 1, RateHints(remaining_requests=0, resets_in=7.5))
    assert gate.wait(2.0, 1) == pytest.approx(6.5)


def test_a_reset_that_tells_when_all_is_full_again_is_not_waited_for() -> None:
    gate = admission()
    ticket = gate.launched("generate", 0.0, 1)
    hints = RateHints(requests_per_minute=60.0, remaining_requests=0, resets_in=60.0)
    gate.answered(ticket, 1.0, 1, hints)
    assert gate.wait(1.0, 1) == pytest.approx(1.0)


def test_calls_that_come_too_late_bring_the_level_down_to_what_the_server_can_do() -> None:
    outcome = Simulation(admission(), Queueing(), calls=40).run()
    levels = [level for _, level in outcome.limits]
    assert max(levels[:4]) == 8
    assert levels.count(1) > 0.7 * len(levels)
    assert len(outcome.refusals) < 12
