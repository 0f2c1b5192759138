"""Group commit: what arrives within a few milliseconds goes to the disk together.

`record` returns once its record is durable. Any number of calls may wait for
the same commit, so the cost of a sync is shared and the journal keeps up with
thousands of answers a second. SQLite works in a thread, never on the event loop.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from nanodistill.errors import NanoDistillError
from nanodistill.journal import Journal, Record

GATHER_SECONDS = 0.01
"""Seconds between two commits. A sync takes about as long on an SSD, so waiting for it costs little
and shares it among hundreds of answers. One that comes alone does not wait."""
THREADS = 4
"""One commits, the others read responses meanwhile."""

UNSTORABLE = (ValueError, TypeError, OverflowError, sqlite3.ProgrammingError)
"""What encoding a record, or binding it to a statement, raises when SQLite can't hold it."""

Result = TypeVar("Result")


class UnstorableRecordError(Exception):
    """A record that no journal can hold. The others of its batch are durable."""


class Offload(Protocol):
    """Runs blocking work somewhere else than on the event loop."""

    async def __call__(self, work: Callable[[], Result], /) -> Result: ...


def own_threads() -> Offload:
    """Worker threads that nobody else can use up; a cancelled caller still waits for the end."""
    limiter = anyio.CapacityLimiter(THREADS)

    async def in_thread(work: Callable[[], Result], /) -> Result:
        return await anyio.to_thread.run_sync(work, limiter=limiter)

    return in_thread


class CommitBatch:
    """Records that are committed together."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.done = anyio.Event()
        self.error: NanoDistillError | None = None
        self.unstorable: dict[int, Exception] = {}


class GroupCommit:
    """The one writer of a journal. Make one with `open_group_commit`."""

    def __init__(self, journal: Journal, offload: Offload) -> None:
        self._journal = journal
        self._offload = offload
        self._batch = CommitBatch()
        self._arrived = anyio.Event()

    async def record(self, record: Record) -> None:
        """Make `record` durable.

        Raises:
            DiskFullError: there was no room; it is not in the journal.
            UnstorableRecordError: SQLite can't hold it; it is not in the journal.
        """
        batch = self._batch
        self.note(record)
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error
        if id(record) in batch.unstorable:
            raise UnstorableRecordError(str(batch.unstorable[id(record)]))

    def note(self, record: Record) -> None:
        """Let `record` go with the next commit. Nobody waits for it; a crash may lose it."""
        self.remark(record)
        self._arrived.set()

    def remark(self, record: Record) -> None:
        """Let `record` go with the next commit that others cause, at the end at the latest."""
        self._batch.records.append(record)

    async def run(self) -> None:
        """Commit batch after batch, for ever: at once after a quiet while, else what gathers."""
        next_at = -math.inf
        while True:
            await self._arrived.wait()
            await anyio.sleep_until(next_at)
            await self.flush()
            next_at = anyio.current_time() + GATHER_SECONDS

    async def flush(self) -> None:
        """Commit what has arrived. Once begun, this can't be cancelled: the batch would be lost."""
        batch, self._batch, self._arrived = self._batch, CommitBatch(), anyio.Event()
        if not batch.records:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._offload(lambda: self._commit(batch))
        except NanoDistillError as error:
            batch.error = error
        batch.done.set()

    def _commit(self, batch: CommitBatch) -> None:
        """Commit a batch; one by one where one of them would take the others with it."""
        try:
            self._journal.commit(batch.records)
        except UNSTORABLE:
            for record in batch.records:
                try:
                    self._journal.commit([record])
                except UNSTORABLE as error:
                    batch.unstorable[id(record)] = error


@asynccontextmanager
async def open_group_commit(journal: Journal, offload: Offload) -> AsyncIterator[GroupCommit]:
    """A running recorder. What it was given is committed before this ends, however it ends."""
    recorder = GroupCommit(journal, offload)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        try:
            yield recorder
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await recorder.flush()
