"""Launches evenly spaced in time, and a pace learned from refusals.

Bursts are what rate limits refuse, so launches are spaced: at a rate the user or
the provider's headers gave, and below one that refusals have taught.

What a refusal teaches. A leaky bucket is empty whenever it refuses, so what it let
through between two refusals, over the time between them, is its rate. A provider
that counts per window has let through, in the last one, all that it allows: the
launches of the last `w` seconds, per `w`, if `w` is the wait that it asks for. The
first is too low for windows (a pause is lost on them), the second too high for
buckets (they have a reserve). So we begin at the lower one and close in on the
upper one, keep a little below it, and when refusals come soon again, give way to
the lower one. A call that was held up on its way arrives close to those after it, so a
launch also waits until the one that it must not share a window with has arrived a
window ago. After a quiet while the pace feels its way up, to find a limit that
was raised; the while grows as the limit proves constant.
"""

from __future__ import annotations

import math
from itertools import islice

# What is said below of other values was measured by tests/benchmarks/limit_constants.py, at half
# and at double, on simulated providers. As they are, 97% of a limit that nobody told us is used
# (95% at worst) and 0.6% of the requests are refused. "Indifferent": neither half nor double
# changes a figure.

LATE = 0.015
"""Seconds. A timer wakes up late by some milliseconds on a busy machine. Indifferent."""
MARGIN = 0.99
"""Share of a limit that is made use of, for clocks that differ."""
CLOSE = 0.98
"""Share of the goal that the rate closes in on. At half, 66% of a limit are used; above 1 the pace
runs into the limit for ever (43% refused at worst)."""
CLOSING_TIME = 1.5
"""Seconds in which the distance to the goal falls to a third. At double, 92% are used at worst."""
NEAR_ENOUGH = 0.6
RESTART = 0.92
"""Where what was let through is this share of the goal or more, begin just below it.
Indifferent."""
STEADY = 4.0
"""Windows that a rate has to have held before a refusal is put down to the rate. Indifferent."""
SOON = 30.0
"""Seconds. A refusal that follows the last one sooner lowers the goal. At double, 93% are used at
worst."""
SAME = 0.05
"""Share by which two goals may differ and be the same limit. Indifferent."""
STEP_DOWN = 0.94
"""How far such a refusal lowers the goal at most. At half, 86% are used at worst, and 77% where
launches arrive late."""
FIRST_QUIET = 30.0
"""Seconds without a refusal before feeling for more. At half, 91% are used at worst; at double a
raised limit is found more slowly (34 of 40 a second after five minutes, not 35)."""
ROUGH_QUIET = 5.0
"""The same while the limit is known only roughly. Indifferent."""
LONGEST_QUIET = 600.0
"""The same at most, for a limit that proved constant. Indifferent within an hour."""
FEELER = 0.002
BOLDER_AFTER = 10.0
"""How the rate feels its way up: by this share a second, and as much more for each so many seconds.
At half or double the figures after a raise are 33 and 38 of 40 a second, in place of 35."""
SHORTEST_WINDOW = 1.0
"""Seconds: what providers count in at least. At half, a limit per second is misread (32% used at
worst); at double, 71% are used on average."""
LONGEST_WINDOW = 60.0
"""Seconds. At half, 3,000 calls at 600 a minute take 20 minutes in place of 5."""
SAME_WINDOW = 1.05
"""Windows within which further refusals say nothing new. At half, those 3,000 calls take 20
minutes."""
LOOK_AGAIN = 0.25
"""Seconds after which a waiting launch looks whether the rate has risen. Indifferent."""
SLOWEST = 1 / 60
"""Launches a second, at least: one a minute is no rate limit any more, it is a pause."""
FEW = 4
"""Calls in a window below which a first refusal shows the limit only roughly. Indifferent."""
DOUBLING_TIME = 2.0
"""Seconds in which the rate doubles while the limit is known only roughly. Indifferent."""
REMEMBERED = 4096
"""Answers, for memory's sake: 8 minutes at 8 a second, more than any window."""
MOST_GUARDED = 256
"""Calls of a window whose arrivals are followed. In larger ones, single late calls are noise."""
GUARD = 0.005
"""Seconds between a window's end and the next call's arrival. Indifferent."""


class Pacer:
    """Spacing of launches at a rate (per second; infinite: none).

    A launch that comes late by up to `LATE` seconds does not delay the next.
    """

    def __init__(self, rate: float = math.inf) -> None:
        self.rate = rate
        self._last = -math.inf
        self._amount = 0.0

    @property
    def _next(self) -> float:
        return self._last + self._amount / self.rate

    def wait(self, now: float) -> float:
        return max(0.0, self._next - now)

    def is_holding(self, now: float) -> bool:
        """Whether a launch waits now, or has just waited, for this pace."""
        return now - self._next <= LATE

    def launched(self, now: float, amount: float = 1.0) -> None:
        self._last = self._next if self.is_holding(now) else now
        self._amount = amount

    def correct(self, amount: float) -> None:
        """What was launched turned out to be larger (or smaller) by `amount`."""
        self._amount += amount


class LaunchHistory:
    """When calls that were not refused have arrived, as far as it is known and matters.

    A call in flight counts from its launch. An answered one has arrived no later
    than the shortest latency before its answer; before its launch the loop, a new
    connection or a slow start of this program may have held it up.
    """

    def __init__(self) -> None:
        self._count = 0
        self._in_flight: dict[int, float] = {}
        self._answered: dict[int, float] = {}
        self._recent: dict[int, float] = {}
        self._shortest = math.inf

    def launched(self, now: float) -> int:
        """Gives the launch its number."""
        self._count += 1
        self._in_flight[self._count] = self._recent[self._count] = now
        self._recent.pop(self._count - MOST_GUARDED, None)
        return self._count

    def answered(self, number: int, latency: float, now: float) -> None:
        del self._in_flight[number]
        self._shortest = min(self._shortest, latency)
        self._answered[number] = now
        if number in self._recent:
            self._recent[number] = max(self._recent[number], now - self._shortest)
        if len(self._answered) > 2 * REMEMBERED:
            self._answered = dict(list(self._answered.items())[-REMEMBERED:])

    def gone(self, number: int) -> None:
        """The call was refused, failed or given up."""
        del self._in_flight[number]
        self._recent.pop(number, None)

    def last_but(self, others: int, now: float) -> float:
        """When the last call but so many others has arrived, at the earliest."""
        found = next(islice(reversed(self._recent.items()), others, None), None)
        if found is None:
            return -math.inf
        number, arrived = found
        return max(arrived, now - self._shortest) if number in self._in_flight else arrived

    def before(self, number: int, after: float) -> int:
        """How many of those launched before `number` have arrived `after` a time."""
        answered = after + self._shortest
        return sum(at > after and n < number for n, at in self._in_flight.items()) + sum(
            at > answered and n < number for n, at in self._answered.items()
        )


class AdaptivePacer:
    """The pace that refusals have taught; none until the first."""

    def __init__(self) -> None:
        self._pace = Pacer()
        self._history = LaunchHistory()
        self._began: float | None = None
        self._refused_at: float | None = None
        self._resumes_at = -math.inf
        self._goal = math.inf
        self._is_firm = False
        self._risen_at = -math.inf
        self._window = SHORTEST_WINDOW
        self._quiet = FIRST_QUIET

    @property
    def rate(self) -> float:
        return self._pace.rate

    def wait(self, now: float) -> float:
        """Seconds to wait, at most some: the rate may have risen until then."""
        self._rise(now)
        return min(max(self._pace.wait(now), self._guard(now)), LOOK_AGAIN)

    def launched(self, now: float) -> int:
        """Take note of a launch; gives its number."""
        if self._began is None:
            self._began = now
        self._rise(now)
        self._pace.launched(now)
        return self._history.launched(now)

    def answered(self, number: int, latency: float, now: float) -> None:
        """Take note of an answer to launch `number`."""
        self._history.answered(number, latency, now)

    def gone(self, number: int) -> None:
        """Launch `number` failed in another way or was given up."""
        self._history.gone(number)

    def refused(
        self, number: int, launched_at: float, asked: float | None, resumes_at: float
    ) -> None:
        """Learn from a refusal of launch `number`. Launches pause until `resumes_at`.

        `asked` is the wait that the provider asked for, if it did. Refusals that come
        within a window of the last one say nothing new.
        """
        self._history.gone(number)
        self._window = max(self._window, min(asked or 0.0, LONGEST_WINDOW))
        soonest = SAME_WINDOW * self._window
        if self._refused_at is not None and launched_at <= self._refused_at + soonest:
            self._pause(resumes_at)
            return
        window = self._window
        low = self._between(number, launched_at)
        high = max(1, self._history.before(number, launched_at - window)) / window
        if math.isfinite(self.rate) and launched_at - self._resumes_at >= STEADY * window:
            high = self.rate if self.rate < self._goal else (self.rate + self._goal) / 2
        self._aim(min(low, high), high, launched_at)
        self._refused_at = launched_at
        self._pause(resumes_at)

    def _guard(self, now: float) -> float:
        """Seconds until a window has room, by when calls have arrived rather than left."""
        if not self._is_firm:
            return 0.0
        most = math.ceil(max(self._goal, self.rate) * self._window - SAME)
        if most > MOST_GUARDED:
            return 0.0
        return self._history.last_but(most - 1, now) + self._window + GUARD - now

    def _pause(self, until: float) -> None:
        self._resumes_at = self._risen_at = max(until, self._resumes_at)
        self._pace = Pacer(self.rate)

    def _between(self, number: int, now: float) -> float:
        """The rate at which calls were let through since the last refusal, or the first call."""
        if self._refused_at is not None:
            return self._history.before(number, self._refused_at) / (now - self._refused_at)
        assert self._began is not None
        return self._history.before(number, -math.inf) / (now - self._began + self._window)

    def _aim(self, low: float, high: float, now: float) -> None:
        """Set rate and goal by the limits that a refusal has shown."""
        goal = min(high, self._goal) if low == 0 else high
        if self._is_firm and self._refused_at is not None and now - self._refused_at < SOON:
            goal = min(goal, max(low, STEP_DOWN * self._goal))
        self._quiet = self._next_quiet(goal)
        self._is_firm = math.isfinite(self.rate) or high >= FEW
        self._goal = goal
        start = max(low, RESTART * goal) if low > NEAR_ENOUGH * goal else low
        self._pace.rate = max(min(start, CLOSE * goal) or min(self.rate, CLOSE * goal), SLOWEST)

    def _next_quiet(self, goal: float) -> float:
        """How long to keep to `goal` before feeling for more."""
        if math.isfinite(self.rate) and not self._is_firm:
            return ROUGH_QUIET
        if abs(goal - self._goal) <= SAME * goal:
            return min(LONGEST_QUIET, 2 * self._quiet)
        return FIRST_QUIET

    def _rise(self, now: float) -> None:
        """Let the rate rise for the time since it was last looked at, if it is what holds."""
        passed, self._risen_at = now - self._risen_at, max(now, self._risen_at)
        if passed <= 0 or math.isinf(self.rate) or not self._pace.is_holding(now):
            return
        quiet = now - self._resumes_at - self._quiet
        near = CLOSE * self._goal
        if not self._is_firm:
            self._pace.rate *= 2 ** (passed / DOUBLING_TIME)
        elif quiet > 0:
            self._pace.rate *= 1 + FEELER * passed * (1 + quiet / BOLDER_AFTER)
        elif self.rate < near:
            self._pace.rate = near - (near - self.rate) * math.exp(-passed / CLOSING_TIME)
