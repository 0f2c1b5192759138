"""The crash-safe store of every teacher call: what was paid for is never lost or bought twice.

A record is a `Call`: one attempt, for the ledger, with the `StoredResponse` if the attempt brought
one that is final, an answer or a refusal. `commit` returns once the records are on the disk
(SQLite, WAL, synchronous=FULL), all of them or none. Only then may anyone parse, count or show what
they hold. A crash costs what was not committed yet: calls in flight.

A response is found by its request's key, which says nothing about stages, settings of the run or
time. It is never changed or deleted, except a failure of `ASKED_AGAIN`, which an answer replaces.
Its `whole_by` is the version of the rules (`response_validation.VALIDATION_VERSION`) that found it
valid, so that resuming need not parse it again.

Two things guard against damage. Each row has a checksum, so a flipped bit is an error and never an
answer. And SQLite silently drops the end of a write-ahead log that was cut short; so each commit
writes how many records there are into the commit counter, a small file beside the journal. A
journal with fewer is damaged and says so; whoever deletes the counter accepts the loss.

Two writers at once are not supported: the second gets `RunLockedError`. Files are readable by their
owner alone. All methods block: in an event loop use `nanodistill.engine.group_commit`.

Example:
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> with open_journal(Path(mkdtemp()) / "journal.sqlite") as journal:
    ...     journal.sums()
    {}
"""

from __future__ import annotations

from nanodistill.journal.entries import (
    ASKED_AGAIN,
    Attempt,
    Call,
    CallState,
    Cause,
    Outcome,
    Record,
    StoredResponse,
    Unpriced,
    UsageTotals,
    Validated,
)
from nanodistill.journal.journal_errors import commit_counter_of
from nanodistill.journal.store import Journal, open_journal, read_journal

__all__ = [
    "ASKED_AGAIN",
    "Attempt",
    "Call",
    "CallState",
    "Cause",
    "Journal",
    "Outcome",
    "Record",
    "StoredResponse",
    "Unpriced",
    "UsageTotals",
    "Validated",
    "commit_counter_of",
    "open_journal",
    "read_journal",
]
