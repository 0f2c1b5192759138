"""A run's curation reads as a list of steps, and a row ends at the first that refuses it.

A step is anything with a name that takes a row and gives it back (as it was, or
mended) or a `Refused`. A step may remember rows; it then sees them in plan
order, because whoever calls the sieve does so at the end of a round.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nanodistill.records import Rejection, Trace


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a row did not pass: a short stable word, and what in the row it was."""

    reason: str
    detail: str = ""


class Step(Protocol):
    """One thing that a row has to pass."""

    @property
    def name(self) -> str:
        """What the step does, as the card lists it."""
        ...

    def __call__(self, row: Trace) -> Trace | Refused: ...


class StepCounts:
    """How many rows reached each step, and what it dropped by reason, in the order of the steps."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def list(self, steps: Iterable[str]) -> None:
        """Name the steps in their order; others come after them."""
        for step in steps:
            self.reach(step, 0)

    def reach(self, step: str, rows: int = 1) -> None:
        self.reached[step] += rows

    def drop(self, step: str, reason: str) -> None:
        self.dropped[step][reason] += 1


@dataclass(frozen=True)
class Sieve:
    """Steps in order."""

    steps: Sequence[Step]
    counts: StepCounts

    def __call__(self, row: Trace) -> Trace | Rejection:
        for step in self.steps:
            self.counts.reach(step.name)
            passed = step(row)
            if isinstance(passed, Refused):
                self.counts.drop(step.name, passed.reason)
                return Rejection(row, passed.reason, passed.detail)
            row = passed
        return row
