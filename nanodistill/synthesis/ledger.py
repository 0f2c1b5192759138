"""Where rows end: kept, rejected with a reason, or failed with their call."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nanodistill.curation.accounting import Accounts
from nanodistill.curation.sieve import StepCounts
from nanodistill.records import Rejection, Trace
from nanodistill.synthesis.generation import Slot
from nanodistill.synthesis.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Placed:
    """A row on its way, with the slot that it is meant to fill."""

    slot: Slot
    row: Trace


@dataclass(frozen=True)
class Ledger:
    """The accounts of a run, its steps' counts, and its rows on two shelves.

    `words` has for each reason what was said the first time that a row was lost for it.
    """

    kept: Shelf
    rejected: Shelf
    accounts: Accounts = field(default_factory=Accounts)
    steps: StepCounts = field(default_factory=StepCounts)
    words: dict[str, str] = field(default_factory=dict)

    def request(self, cell: str, n: int = 1) -> None:
        self.accounts.requested(cell, n)

    def keep(self, row: Trace) -> None:
        self.accounts.kept(row.cell)
        self.kept.put(row)

    def reject(self, rejection: Rejection) -> None:
        self.accounts.rejected(rejection.trace.cell, rejection.reason)
        self.words.setdefault(rejection.reason, rejection.detail)
        self.rejected.put(rejection)

    def fail(self, cell: str, kind: str, message: str) -> None:
        self.accounts.failed(cell, kind)
        self.words.setdefault(kind, message)

    def lost(self) -> Counter[str]:
        """How many rows were lost so far, by reason."""
        total = self.accounts.total()
        return total.rejected + total.failed
