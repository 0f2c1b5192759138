"""How many calls may be in flight: a level that finds itself.

It is looked at once for each generation of answers, as many as the level. Tripling at
first, with half as many answers to calls beyond the level before, then by one, it grows
while it is in use; it shrinks by a share when the provider refuses or fails to keep up.

Servers that queue in silence are seen by what concurrency buys. By Little's law
throughput is calls in flight over latency, so if twice as many in flight take
(almost) twice as long, the second half only waits. What was seen is therefore kept
by octave of calls in flight. Tripling ends when throughput has not grown at least
with the square root of the calls in flight, in two generations running. An octave
that brings hardly more throughput than one below is left, and tried again later, at
ever longer intervals. This is the marginal form of the gradient of TCP Vegas (Brakmo
and Peterson, 1995): a latency that rises but pays, as in a server that batches, is
no reason to stop. A verdict takes the best of three windows of time, so that a stall
of either machine is not taken for it.

A call that came too late says more than that it is late: what the server answered
during its life is what it can do in that time. The level goes down to less than that,
stays there for a while, and is raised again later, at ever longer intervals.

Each stage has its own latencies: its answers are of other lengths.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# What is said below of other values was measured by tests/benchmarks/limit_constants.py, at half
# and at double, on simulated servers. As they are, servers that queue in silence are used to 97%
# with at most five times their slots in flight. "Indifferent": neither half nor double changes a
# figure.

START = 8
"""Calls in flight at first. Indifferent, as it triples from there."""
START_FACTOR = 3.0
"""At half, fewer calls are in flight in vain (3.8 times the slots, not 5), and a limit that nobody
told us is used to 92% at worst, not 95%; more than three is indifferent."""
AGAIN_FACTOR = 1.5
"""How fast a level that was good before comes back. Below 1 it never does; at double, 7 times the
slots are in flight."""
PAYS = 0.14
"""Throughput has to grow with this power of the calls in flight: by a tenth when they double.
Indifferent between 0.07 and 0.28."""
PAYS_AT_START = 0.5
"""The same while it triples: the square root. At 1, a server that batches is left at 90 of 100
calls that pay."""
APART = 1.5
"""Octaves are compared when they are this far apart. At half, 19 times the slots are in flight, at
double 10 times: close ones can't be told apart, distant ones are compared too late."""
DECREASE = 0.7
"""What is left of the level after a refusal. At half, a lowered or raised limit is found far too
slowly (600 calls a minute take 13 minutes in place of 5)."""
SMALLEST = 1.0
"""At 2, a server that takes one call at a time lets 65% of the calls time out, in place of 18%."""
LEAST_BY_LATENCY = 4.0
"""Rising latency alone never brings the level lower: with fewer in flight it is noise.
Indifferent."""
IN_USE = 0.75
"""Share of the level that has to be in flight for answers to count. At half, more calls time out on
a server that takes one at a time (28%); at double no answer would count, and a level that is too
low would stay."""
WINDOWS = 3
"""Windows of which a verdict takes the best. With 6 it comes far too late: 44 times the slots in
flight. With 1, a stall is taken for a limit."""
FEWEST = 8
"""Answers in a window, at least. At half, 3.3 times the slots are in flight, on fewer data; more is
indifferent."""
TRY_AGAIN_AFTER = 3.0
"""Seconds until an octave that was left is tried again, doubling each time. At half or double the
figures stay within a fifth."""
LONGEST_UNTIL_AGAIN = 120.0
"""Seconds. Indifferent; a server that became larger is found within two minutes."""
LONGEST_HELD = 1200.0
"""Seconds that a level stays down after calls that timed out, at most. Indifferent."""
SETTLED = 8.0
"""Intervals without a timeout after which the next one counts as the first. Indifferent."""
REMEMBERED = 4096
"""Answers, for memory's sake: more than any level lets be in flight during a call's life."""


@dataclass(slots=True)
class ThroughputSample:
    """Some answers: how many, with how many calls in flight, after how long."""

    count: int = 0
    in_flight: float = 0.0
    latency: float = 0.0
    in_use: int = 0

    def add(self, in_flight: int, latency: float, *, in_use: bool = True) -> None:
        self.count += 1
        self.in_flight += (in_flight - self.in_flight) / self.count
        self.latency += (latency - self.latency) / self.count
        self.in_use += in_use

    @property
    def throughput(self) -> float:
        return self.in_flight / max(self.latency, 1e-6)

    def pays(self, lower: ThroughputSample, exponent: float) -> bool:
        """Whether throughput grew from `lower` to here as the calls in flight, to a power."""
        more = self.in_flight / lower.in_flight
        return self.throughput >= lower.throughput * float(more**exponent)


class LatencyBucket:
    """What one octave brought in its last windows of time; each lasts as long as a call does."""

    def __init__(self) -> None:
        self._windows: deque[ThroughputSample] = deque(maxlen=WINDOWS)
        self._window = ThroughputSample()
        self._began = 0.0

    def add(self, in_flight: int, latency: float, now: float) -> None:
        if self._window.count == 0:
            self._began = now
        self._window.add(in_flight, latency)
        if self._window.count >= FEWEST and now - self._began >= self._window.latency:
            self._windows.append(self._window)
            self._window = ThroughputSample()

    @property
    def best(self) -> ThroughputSample:
        """The sample of most throughput."""
        return max(self._windows or [self._window], key=lambda sample: sample.throughput)

    @property
    def is_known(self) -> bool:
        return len(self._windows) > 0 or self._window.count >= FEWEST

    @property
    def is_certain(self) -> bool:
        return len(self._windows) == WINDOWS


@dataclass(slots=True)
class Cooldown:
    """An octave that was left: until when, and for how long at a time."""

    until: float
    interval: float


class AdaptiveConcurrency:
    """The level. `most` caps it; it begins at `start`, where what suits is known."""

    def __init__(self, most: int, start: int = START) -> None:
        self._most = float(most)
        self._level = min(float(start), self._most)
        self._factor = START_FACTOR
        self._unpaid = 0
        self._generation = ThroughputSample()
        self._octaves: dict[tuple[str, int], LatencyBucket] = {}
        self._closed: dict[tuple[str, int], Cooldown] = {}
        self._decreased_at = float("-inf")
        self._recover_to = 0.0
        self._answered_at: deque[float] = deque(maxlen=REMEMBERED)
        self._held: Cooldown | None = None

    @property
    def limit(self) -> int:
        return int(self._level)

    @property
    def is_starting(self) -> bool:
        return self._factor > 1.0

    def tried(self, stage: str, latency: float, now: float) -> None:
        """Take note of an answer that came while no other call was under way."""
        self._answered_at.append(now)
        self._seen(stage, 1).add(1, latency, now)

    def answered(self, stage: str, in_flight: int, latency: float, now: float) -> None:
        """Take note of an answer to a call that was launched as one of `in_flight`."""
        self._answered_at.append(now)
        self._seen(stage, in_flight.bit_length()).add(in_flight, latency, now)
        if self.is_starting and in_flight <= self._level / START_FACTOR:
            return
        in_use = self.is_starting or in_flight >= IN_USE * self._level
        self._generation.add(in_flight, latency, in_use=in_use)
        if self._generation.count >= self._level / (2 if self.is_starting else 1):
            self._look(stage, in_flight.bit_length(), now)
            self._generation = ThroughputSample()

    def overloaded(self, launched_at: float, now: float, *, lasting: bool) -> None:
        """Shrink, once for all calls that were under way together.

        Not `lasting` is a rate that was too high, which the pace takes care of: the
        level comes back soon.
        """
        if launched_at < self._decreased_at:
            return
        self._decreased_at = now
        self._factor = 1.0
        self._recover_to = 0.0 if lasting else self._level
        self._level = max(SMALLEST, self._level * DECREASE)

    def timed_out(self, launched_at: float, now: float) -> None:
        """Shrink to less than what was answered during the life of a call that was not."""
        if launched_at < self._decreased_at:
            return
        before, answered = self._level, sum(at > launched_at for at in self._answered_at)
        self.overloaded(launched_at, now, lasting=True)
        self._level = max(SMALLEST, min(self._level, DECREASE * answered))
        self._recover_to = DECREASE * before
        held = self._held
        is_new = held is None or now > held.until + SETTLED * held.interval
        interval = (now - launched_at) / 2 if held is None or is_new else 2.0 * held.interval
        interval = min(interval, LONGEST_HELD)
        self._held = Cooldown(now + interval, interval)

    def _look(self, stage: str, octave: int, now: float) -> None:
        if self._only_waits(stage, octave, now):
            return
        if self._generation.in_use < self._generation.count / 2:
            return
        if self._held is not None and now < self._held.until:
            return
        if self._factor > 1.0:
            self._go_on_starting(stage)
        elif self._level < self._recover_to:
            self._level = min(self._recover_to, self._level * AGAIN_FACTOR)
        elif not self._next_is_closed(stage, now):
            self._level += 1.0
        self._level = min(self._level, self._most)

    def _go_on_starting(self, stage: str) -> None:
        lower = self._known_below(stage, self._generation.in_flight)
        unpaid = lower is not None and not self._generation.pays(lower, PAYS_AT_START)
        self._unpaid = self._unpaid + 1 if unpaid else 0
        if self._unpaid == 0:
            self._level *= self._factor
        elif self._unpaid > 1:
            self._factor = 1.0

    def _only_waits(self, stage: str, octave: int, now: float) -> bool:
        here = self._octaves[stage, octave]
        lower = self._known_below(stage, here.best.in_flight) if here.is_certain else None
        if lower is None:
            return False
        if here.best.pays(lower, PAYS):
            self._closed.pop((stage, octave), None)
            return False
        self._leave(stage, octave, lower.in_flight, now)
        return True

    def _leave(self, stage: str, octave: int, in_flight: float, now: float) -> None:
        """Go back to so many `in_flight`, and close the octaves above."""
        lower = int(in_flight).bit_length()
        for left in range(lower + 1, octave + 1):
            before = self._closed.get((stage, left))
            interval = TRY_AGAIN_AFTER if before is None else 2.0 * before.interval
            interval = min(interval, LONGEST_UNTIL_AGAIN)
            self._closed[stage, left] = Cooldown(now + interval, interval)
            self._octaves.pop((stage, left), None)
        self._factor = 1.0
        self._recover_to = 0.0
        self._level = min(self._level, max(LEAST_BY_LATENCY, 2.0**lower - 1))

    def _known_below(self, stage: str, in_flight: float) -> ThroughputSample | None:
        """The best that is known well below; with one call in flight, one answer is enough."""
        for octave in range(int(in_flight).bit_length(), 0, -1):
            seen = self._octaves.get((stage, octave))
            if seen is None or not (seen.is_known or octave == 1):
                continue
            if seen.best.in_flight <= in_flight / APART:
                return seen.best
        return None

    def _seen(self, stage: str, octave: int) -> LatencyBucket:
        return self._octaves.setdefault((stage, octave), LatencyBucket())

    def _next_is_closed(self, stage: str, now: float) -> bool:
        """Whether the next step up leads into an octave that was left a short while ago.

        When its time has come, it is entered at a larger step, as at the start.
        """
        closed = self._closed.get((stage, int(self._level + 1).bit_length()))
        if closed is None:
            return False
        if now >= closed.until:
            self._recover_to = min(self._most, 2.0 * self._level)
        return now < closed.until
