"""A run's curation as a list of filters, and the account of where every candidate row ended.

A candidate is issued (a slot of a generation call, a seed, a row of the user's, a refill) and then
kept, rejected with a reason, or failed with the class of the call that brought nothing. `requested
= kept + rejected + failed` holds whenever no candidate is in flight, for the run and for each
cell.

A filter has a name and returns a row (as it was, or repaired) or a `Rejected`. It may remember
rows; it sees them in plan order, because the pipeline is called at the end of a round.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nanodistill.types import Rejection, Trace


@dataclass
class Tally:
    """How the candidates of one cell ended."""

    requested: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def under_way(self) -> int:
        return self.requested - self.kept - self.rejected.total() - self.failed.total()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requested + other.requested,
            self.kept + other.kept,
            self.rejected + other.rejected,
            self.failed + other.failed,
        )

    def to_json(self) -> dict[str, object]:
        return {
            "requested": self.requested,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "failed": dict(sorted(self.failed.items())),
        }


class Accounts:
    """The tallies of a run, by cell."""

    def __init__(self) -> None:
        self.cells: dict[str, Tally] = {}

    def requested(self, cell: str, n: int = 1) -> None:
        self._of(cell).requested += n

    def kept(self, cell: str) -> None:
        self._of(cell).kept += 1

    def rejected(self, cell: str, reason: str, n: int = 1) -> None:
        self._of(cell).rejected[reason] += n

    def failed(self, cell: str, kind: str, n: int = 1) -> None:
        self._of(cell).failed[kind] += n

    def total(self) -> Tally:
        return sum(self.cells.values(), Tally())

    def by_cell(self) -> dict[str, dict[str, object]]:
        return {cell: tally.to_json() for cell, tally in sorted(self.cells.items())}

    def _of(self, cell: str) -> Tally:
        return self.cells.setdefault(cell, Tally())


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a row did not pass: a short stable word, and what in the row it was."""

    reason: str
    detail: str = ""


class Filter(Protocol):
    """One thing that a row has to pass."""

    @property
    def name(self) -> str:
        """What the step does, as the card lists it."""
        ...

    def __call__(self, row: Trace) -> Trace | Rejected: ...


class FilterCounts:
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
class FilterPipeline:
    """Steps in order."""

    steps: Sequence[Filter]
    counts: FilterCounts

    def __call__(self, row: Trace) -> Trace | Rejection:
        for step in self.steps:
            self.counts.reach(step.name)
            passed = step(row)
            if isinstance(passed, Rejected):
                self.counts.drop(step.name, passed.reason)
                return Rejection(row, passed.reason, passed.detail)
            row = passed
        return row
