"""Launches evenly spaced in time, and a pace learned from refusals.

Bursts are what rate limits refuse, so launches are spaced: at a rate the user or
the provider's headers gave, and below one that refusals have taught.

What a refusal teaches. Let `n` calls have been let through in `t` seconds since
launches began (again), and let the provider ask for a wait of `w` seconds. A
limit per window has then let `n` through in at most `t + w` and at least
`max(t, w)` seconds, and a leaky bucket too once its reserve is spent: the limit
lies between `n / (t + w)` and `n / max(t, w)`. We begin at the lower end and close
in on the upper one. Refused while going steadily, the limit lies just below the
present pace; refused so again soon, what was let through since the last refusal,
over that time, is the limit itself. After a quiet while the pace feels its way
up, so that a limit that was raised is found.
"""

from __future__ import annotations

import math

LATE = 0.05
MARGIN = 0.99
SUSTAINED = 4.0
CLOSE = 0.985
CLOSING_TIME = 1.5
QUIET = 20.0
FEELER = 0.002
BACK_OFF = 0.97
SOON = 45.0
SLOWEST = 1 / 60
FEW = 4
DOUBLING_TIME = 1.0


class Pace:
    """Spacing of launches at a rate (per second; infinite: none).

    A launch that comes late by up to `LATE` seconds is made up for.
    """

    def __init__(self, rate: float = math.inf) -> None:
        self.rate = rate
        self._next = -math.inf

    def wait(self, now: float) -> float:
        return max(0.0, self._next - now)

    def launched(self, now: float, amount: float = 1.0) -> None:
        self._next = max(self._next, now - LATE) + amount / self.rate

    def correct(self, amount: float) -> None:
        """What was launched turned out to be larger (or smaller) by `amount`."""
        self._next += amount / self.rate


class LearnedPace:
    """The pace that refusals have taught; none until the first."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._began: float | None = None
        self._launches = 0
        self._goal = math.inf
        self._goal_is_firm = False
        self._updated = -math.inf
        self._quiet_since = -math.inf
        self._refused_at = -math.inf
        self._crossed_at = -math.inf

    @property
    def rate(self) -> float:
        return self._pace.rate

    def wait(self, now: float) -> float:
        self._rise(now)
        return self._pace.wait(now)

    def launched(self, now: float) -> int:
        """Take note of a launch; gives its place since launches began (again)."""
        if self._began is None:
            self._began = self._updated = now
        self._pace.launched(now)
        self._launches += 1
        return self._launches - 1

    def refused(self, place: int, launched_at: float, wait: float, now: float) -> None:
        """Learn from a refusal of the launch at `place`. Launches will pause for `wait` seconds.

        Refusals of calls that were launched before the pause began say nothing new.
        """
        if launched_at <= self._refused_at or self._began is None:
            return
        lasted = launched_at - self._began
        let_through = max(place, 1)
        if math.isfinite(self.rate) and lasted >= SUSTAINED * max(wait, 1.0):
            self._cross(let_through, now)
        else:
            self._bracket(let_through, lasted, wait)
        self._refused_at = now
        self._begin_again(now + wait)

    def _cross(self, let_through: int, now: float) -> None:
        measured = let_through / (now - self._refused_at)
        soon = now - self._crossed_at < SOON
        self._crossed_at = now
        self._goal = measured if soon and measured < self.rate else self.rate
        self._goal_is_firm = True
        self._set(min(BACK_OFF * self.rate, CLOSE * self._goal))

    def _bracket(self, let_through: int, lasted: float, wait: float) -> None:
        low = let_through / max(lasted + wait, 1e-3)
        high = let_through / max(lasted, wait, 1e-3)
        self._goal = min(high, self.rate)
        self._goal_is_firm = let_through >= FEW or math.isfinite(self.rate)
        self._set(min(low, BACK_OFF * self.rate))

    def _set(self, rate: float) -> None:
        self._pace.rate = max(rate, SLOWEST)

    def _begin_again(self, at: float) -> None:
        self._pace = Pace(self.rate)
        self._launches = 0
        self._began = None
        self._updated = self._quiet_since = at

    def _rise(self, now: float) -> None:
        """Let the rate rise for the time since it was last looked at."""
        passed = now - self._updated
        if not math.isfinite(self.rate) or passed <= 0:
            return
        self._updated = now
        if not self._goal_is_firm:
            self._set(self.rate * 2 ** (passed / DOUBLING_TIME))
        elif self.rate < CLOSE * self._goal:
            rest = (CLOSE * self._goal - self.rate) * math.exp(-passed / CLOSING_TIME)
            self._set(CLOSE * self._goal - rest)
        if now - self._quiet_since > QUIET:
            quiet = now - self._quiet_since - QUIET
            self._set(self.rate * (1 + FEELER * passed * (1 + quiet / QUIET)))
