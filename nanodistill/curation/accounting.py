"""Every candidate row ends once, and the sums show it.

A candidate is issued (a slot of a generation call, a seed, a row of the user's,
a top-up) and then kept, rejected with a reason, or failed with the class of the
teacher call that brought nothing. `requested = kept + rejected + failed` holds
whenever no candidate is under way, for the whole run and for each cell.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
