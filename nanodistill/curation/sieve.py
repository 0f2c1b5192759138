"""A run's curation reads as a list of steps, and a row ends at the first that refuses it.

A step is anything with a name that takes a row and gives it back (as it was, or
mended) or a `Refused`. A step may remember rows; it then sees them in plan
order, because whoever calls the sieve does so at the end of a round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Sieve:
    """Steps in order, with counts of the rows that reached and left each."""

    steps: Sequence[Step]
    reached: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __call__(self, row: Trace) -> Trace | Rejection:
        for step in self.steps:
            self.reached[step.name] += 1
            passed = step(row)
            if isinstance(passed, Refused):
                self.refused[step.name] += 1
                return Rejection(row, passed.reason, passed.detail)
            row = passed
        return row

    def counts(self) -> dict[str, Mapping[str, int]]:
        """By step, in order: rows that reached it and rows that it refused."""
        return {
            step.name: {"reached": self.reached[step.name], "refused": self.refused[step.name]}
            for step in self.steps
        }
