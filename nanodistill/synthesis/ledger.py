"""Where rows end: kept, rejected with a reason, or failed with their call.

Rows are spooled to disk in order, so a run's memory does not grow with its rows.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import IO, Any, Self

from nanodistill.curation.filter_pipeline import Accounts, FilterCounts
from nanodistill.synthesis.coverage import Slot
from nanodistill.types import Rejection, Trace

FIELDS = tuple(field.name for field in fields(Trace))


class RowSpool:
    """Kept and rejected rows in a scratch file that goes away with this object."""

    def __init__(self) -> None:
        self._file: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by __exit__
            "w+", encoding="utf-8", errors="surrogatepass"
        )
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._size

    def put(self, row: Trace | Rejection) -> None:
        self._file.write(json.dumps(as_held(row), ensure_ascii=False) + "\n")
        self._size += 1

    def traces(self) -> Iterator[Trace]:
        return (as_trace(held) for held in self._lines())

    def rejections(self) -> Iterator[Rejection]:
        for held in self._lines():
            yield Rejection(as_trace(held["trace"]), held["reason"], held["detail"])

    def _lines(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        yield from map(json.loads, self._file)
        self._file.seek(0, 2)


def as_held(row: Trace | Rejection) -> dict[str, Any]:
    if isinstance(row, Rejection):
        return {"trace": as_held(row.trace), "reason": row.reason, "detail": row.detail}
    return {name: getattr(row, name) for name in FIELDS}


def as_trace(held: dict[str, Any]) -> Trace:
    lists = {name: tuple(held[name]) for name in ("seed_ids", "request_keys")}
    return Trace(**{**held, **lists})


@dataclass(frozen=True, slots=True)
class SlottedRow:
    """A row on its way, with the slot that it is meant to fill."""

    slot: Slot
    row: Trace


@dataclass
class RecheckCounts:
    """How many rows were answered twice, and how many of them alike, by field too."""

    of: int = 0
    agreed: int = 0
    fields: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, agrees: bool, fields: Mapping[str, str]) -> None:
        self.of += 1
        self.agreed += agrees
        for name, verdict in fields.items():
            self.fields.setdefault(name, Counter())[verdict] += 1


@dataclass(frozen=True)
class Ledger:
    """The accounts of a run, its steps' counts, and its rows on two shelves.

    `words` has for each reason what was said the first time that a row was lost for it, and
    `attempts` for each slot what was wrong with its row in the round that is being read.
    """

    kept: RowSpool
    rejected: RowSpool
    accounts: Accounts = field(default_factory=Accounts)
    steps: FilterCounts = field(default_factory=FilterCounts)
    words: dict[str, str] = field(default_factory=dict)
    attempts: dict[int, str] = field(default_factory=dict)
    recheck: RecheckCounts = field(default_factory=RecheckCounts)

    def request(self, cell: str, n: int = 1) -> None:
        self.accounts.requested(cell, n)

    def keep(self, row: Trace) -> None:
        self.accounts.kept(row.cell)
        self.kept.put(row)

    def reject(self, rejection: Rejection, slot: Slot | None = None) -> None:
        if slot is not None:
            self.attempts[slot.number] = attempt_note(rejection)
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


QUOTED_WORDS = 12


def attempt_note(rejection: Rejection) -> str:
    """What a call that asks for a rejected row again says of the first attempt.

    A row too close to a test row is not quoted: prompts never show the test.
    """
    words = rejection.trace.input.split()
    quoted = " ".join(words[:QUOTED_WORDS]) + (" …" if len(words) > QUOTED_WORDS else "")
    match rejection.reason:
        case "contaminated":
            return "too close to an existing input"
        case "duplicate" | "near_duplicate":
            return f'too close to an existing input ("{quoted}")'
        case "missing" | "surplus":
            return ""
        case "label_disagreement":
            answered = rejection.detail.rpartition("answered ")[2]
            return f'"{quoted}" reads as {answered}'
        case reason:
            detail = f": {rejection.detail[:200]}" if rejection.detail else ""
            return f"{reason.replace('_', ' ')}{detail}"
