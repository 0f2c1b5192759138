"""How many calls may be in flight: a level that finds itself.

Doubling at first, then by one per round of answers, the level grows while it is
in use. It shrinks by a share when the provider refuses or fails to keep up.
Servers that queue in silence are seen by what concurrency buys: by Little's law
throughput is calls in flight over latency, so if twice as many in flight take
(almost) twice as long, the second half only waits. Latencies are therefore kept
apart by octave of calls in flight, and an octave that brings less than `GAIN`
times the throughput of the one below it is left, and tried again later. This is
the marginal form of the gradient of TCP Vegas (Brakmo and Peterson, 1995); a
rise of latency that pays, as in a server that batches, is no reason to stop.

Each stage has its own latencies: its answers are of other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 8
START_STEP = 2.0
GAIN = 1.1
ENOUGH_BELOW = 8
ENOUGH = 24
MEMORY = 0.05
DECREASE = 0.7
RECOVERY = 0.25
TRY_AGAIN_AFTER = 15.0
SMALLEST = 1.0
LEAST_BY_LATENCY = 4.0
IN_USE = 0.75


@dataclass(slots=True)
class Latency:
    """A running mean, plain at first and forgetting later."""

    count: int = 0
    mean: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.mean += (seconds - self.mean) * max(1 / self.count, MEMORY)


class Concurrency:
    """The level. `most` caps it; it begins at `start`, where what suits is known."""

    def __init__(self, most: int, start: int = START) -> None:
        self._most = float(most)
        self._level = min(float(start), self._most)
        self._starting = True
        self._octaves: dict[tuple[str, int], Latency] = {}
        self._decreased_at = float("-inf")
        self._recover_to = 0.0
        self._saturated: dict[tuple[str, int], float] = {}
        self.round_trip = 0.0

    @property
    def limit(self) -> int:
        return int(self._level)

    @property
    def is_starting(self) -> bool:
        return self._starting

    def answered(self, stage: str, in_flight: int, latency: float, now: float) -> None:
        """Take note of an answer that came with `in_flight` calls under way, itself included."""
        self.round_trip += (latency - self.round_trip) * (0.1 if self.round_trip else 1.0)
        octave = in_flight.bit_length()
        self._octaves.setdefault((stage, octave), Latency()).add(latency)
        if self._only_waits(stage, octave, now):
            return
        if in_flight >= IN_USE * self._level and not self._is_closed(stage, now):
            self._grow()

    def overloaded(self, launched_at: float, now: float, *, lasting: bool) -> None:
        """Shrink, once for all calls that were under way together.

        Not `lasting` is a rate that was too high, which the pace takes care of: the
        level comes back soon.
        """
        if launched_at < self._decreased_at:
            return
        self._decreased_at = now
        self._starting = self._starting and not lasting
        self._recover_to = 0.0 if lasting else self._level
        self._level = max(SMALLEST, self._level * DECREASE)

    def _grow(self) -> None:
        if self._starting:
            step = START_STEP
        else:
            step = RECOVERY if self._level < self._recover_to else 1.0 / self._level
        self._level = min(self._most, self._level + step)

    def _only_waits(self, stage: str, octave: int, now: float) -> bool:
        here, lower = self._octaves[stage, octave], self._known_below(stage, octave)
        if lower is None or here.count < ENOUGH:
            return False
        steps = octave - lower
        gain = 2.0**steps * self._octaves[stage, lower].mean / here.mean
        if gain >= GAIN**steps:
            return False
        for left in range(lower + 1, octave + 1):
            self._saturated[stage, left] = now
            self._octaves.pop((stage, left), None)
        self._leave(lower)
        return True

    def _known_below(self, stage: str, octave: int) -> int | None:
        """The next lower octave of which enough is known."""
        for lower in range(octave - 1, 0, -1):
            known = self._octaves.get((stage, lower))
            if known is not None and known.count >= ENOUGH_BELOW:
                return lower
        return None

    def _leave(self, octave: int) -> None:
        """Go back to the top of `octave`."""
        self._starting = False
        self._recover_to = 0.0
        self._level = min(self._level, max(LEAST_BY_LATENCY, 2.0**octave - 1))

    def _is_closed(self, stage: str, now: float) -> bool:
        """Whether the next step up leads into an octave that was left a short while ago."""
        left_at = self._saturated.get((stage, int(self._level + 1).bit_length()))
        return left_at is not None and now - left_at < TRY_AGAIN_AFTER
