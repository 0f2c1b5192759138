"""Providers with limits, and a session's `Admission` against them, in simulated time.

No event loop and no clock: one heap of what happens next. Hours take milliseconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from nanodistill.engine.rate_limiter import Permit, RateLimiter
from nanodistill.errors import TransientError
from nanodistill.providers.base import RateHints


@dataclass
class Verdict:
    """What a server does with a request: its answer after `latency`, or a refusal."""

    latency: float = 0.0
    error: TransientError | None = None
    hints: RateHints | None = None


class Server(Protocol):
    def arrive(self, now: float) -> Verdict: ...
    def leave(self, now: float) -> None: ...


def too_fast(retry_after: float | None = None) -> TransientError:
    return TransientError("rate_limit", "too fast", status=429, retry_after=retry_after)


@dataclass
class Open:
    """A server without limits, until told otherwise."""

    latency: float = 0.05
    error: TransientError | None = None

    def arrive(self, now: float) -> Verdict:
        return Verdict(self.latency, self.error)

    def leave(self, now: float) -> None:
        """Nothing."""


@dataclass
class Windowed(Open):
    """At most `most` requests in any window of `span` seconds, or in each `fixed` one.

    Asks for a wait of `retry_after` seconds, or for the one that is needed if `exact`.
    """

    most: int = 10
    span: float = 1.0
    fixed: bool = False
    exact: bool = False
    retry_after: float | None = 1.0
    refusal_latency: float = 0.002
    taken: deque[float] = field(default_factory=deque)

    def arrive(self, now: float) -> Verdict:
        began = math.floor(now / self.span) * self.span if self.fixed else now - self.span
        while self.taken and (self.taken[0] < began if self.fixed else self.taken[0] <= began):
            self.taken.popleft()
        if len(self.taken) >= self.most:
            free = (began if self.fixed else self.taken[0]) + self.span
            wait = free - now if self.exact else self.retry_after
            return Verdict(self.refusal_latency, too_fast(wait))
        self.taken.append(now)
        return Verdict(self.latency)


@dataclass
class Bucket(Open):
    """`rate` tokens a second into a bucket that holds `size`; a request takes one."""

    rate: float = 10.0
    size: float = 10.0
    retry_after: float | None = 1.0
    refusal_latency: float = 0.002
    level: float = -1.0
    looked: float = 0.0

    def arrive(self, now: float) -> Verdict:
        self.level = self.size if self.level < 0 else self.level
        self.level = min(self.size, self.level + (now - self.looked) * self.rate)
        self.looked = now
        if self.level < 1.0:
            return Verdict(self.refusal_latency, too_fast(self.retry_after))
        self.level -= 1.0
        return Verdict(self.latency)


@dataclass
class Slots(Open):
    """Works on `slots` at once; more are refused, or wait in silence if it `queues`."""

    slots: int = 8
    queues: bool = True
    busy: int = 0
    free_at: list[float] = field(default_factory=list)

    def arrive(self, now: float) -> Verdict:
        if not self.queues and self.busy >= self.slots:
            return Verdict(0.002, too_fast(1.0))
        self.busy += 1
        if not self.queues:
            return Verdict(self.latency)
        self.free_at = self.free_at or [0.0] * self.slots
        start = max(now, heapq.heappop(self.free_at))
        heapq.heappush(self.free_at, start + self.latency)
        return Verdict(start + self.latency - now)

    def leave(self, now: float) -> None:
        self.busy -= 1


@dataclass
class Batching(Open):
    """Works on all at once; latency rises with them, but pays."""

    busy: int = 0

    def arrive(self, now: float) -> Verdict:
        self.busy += 1
        return Verdict(1.0 + self.busy / 100)

    def leave(self, now: float) -> None:
        self.busy -= 1


@dataclass
class Queueing(Open):
    """Works on one call at a time; whoever waits longer than `patience` leaves."""

    latency: float = 6.0
    patience: float = 10.0
    free_at: float = 0.0

    def arrive(self, now: float) -> Verdict:
        end = max(now, self.free_at) + self.latency
        if end - now > self.patience:
            return Verdict(self.patience, TransientError("timeout", "none in time"))
        self.free_at = end
        return Verdict(end - now)


@dataclass
class Outcome:
    """When what happened. `answers` and `refusals` are times of arrival at the server."""

    launches: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    most_in_flight: int = 0
    end: float = 0.0

    def rate(self, since: float) -> float:
        """Answers a second from `since` to the end."""
        return sum(at >= since for at in self.answers) / (self.end - since)

    @property
    def refused(self) -> float:
        return len(self.refusals) / max(1, len(self.launches))


@dataclass
class Simulation:
    """`calls` answers wanted of `server`. Arrivals are late by up to `jitter` seconds."""

    admission: RateLimiter
    server: Server
    calls: int
    tokens: Callable[[], int] = lambda: 100
    estimate: int = 100
    jitter: float = 0.003
    random: Random = field(default_factory=lambda: Random(0))
    until: float = math.inf

    def run(self) -> Outcome:
        outcome, now, left, order = Outcome(), 0.0, self.calls, 0
        flying: list[tuple[float, int, Permit, Verdict]] = []
        while (left or flying) and now < self.until and not self.admission.breaker.reason:
            wait = self.admission.wait(now, self.estimate) if left else math.inf
            if wait <= 0:
                left, order = left - 1, order + 1
                ticket = self.admission.launched("generate", now, self.estimate)
                arrival = now + self.random.uniform(0, self.jitter)
                verdict = self.server.arrive(arrival)
                outcome.launches.append(now)
                (outcome.refusals if verdict.error else outcome.answers).append(arrival)
                outcome.most_in_flight = max(outcome.most_in_flight, self.admission.in_flight)
                heapq.heappush(flying, (arrival + verdict.latency, order, ticket, verdict))
                continue
            if not flying or flying[0][0] > now + wait:
                now += wait
                continue
            now, _, ticket, verdict = heapq.heappop(flying)
            left += self._back(ticket, verdict, now)
            outcome.limits.append((now, self.admission.limit))
        outcome.end = now
        return outcome

    def _back(self, ticket: Permit, verdict: Verdict, now: float) -> int:
        if verdict.error is not None:
            self.admission.failed(ticket, now, verdict.error)
            return 1
        self.server.leave(now)
        self.admission.answered(ticket, now, self.tokens(), verdict.hints)
        return 0
