"""The crash-safe store of every teacher call: what was paid for is never lost or bought twice.

One record is a `Call`: an attempt, for the ledger, and with it the `StoredResponse`
where the attempt brought one that is final, an answer or a refusal. `commit`
returns when the records are on the disk (SQLite, WAL, synchronous=FULL), all of
them or none; only then may anyone parse, count or show what they hold. A crash
costs what was not yet committed: calls in flight.

A response is found by its request's key, which says nothing about stages,
settings of the run or time. It is never changed or deleted, unless it is a failure of
`ASKED_AGAIN`, which an answer replaces. Its `whole_by` is
a remark and no more: the rules (`response_validation.VALIDATION_VERSION`) by which it has been
found to be a whole answer, so that resuming need not parse it again.

SQLite itself forgets the end of a WAL that is cut short, without a word. So each
commit also writes how many records there are into a small file beside the
journal, the seal; a journal with fewer is damaged and said to be. Deleting the
seal accepts the loss.

Each row has a checksum, so that a flipped bit is damage and is said to be; a
journal of format 1, which had none, becomes one of today when it is opened.

Not promised: two writers. Files are readable by their owner alone. All methods
block: not for an event loop, see `nanodistill.engine.group_commit`.
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
