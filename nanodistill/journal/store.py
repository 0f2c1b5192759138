"""The journal's file: opening, committing, reading.

Beside the SQLite file lies a small one, the commit counter, with how many records were committed.
SQLite tells damage inside its pages. It can't tell that its file was put back from an older backup,
or that a write-ahead log with paid answers was deleted; the counter can.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import starmap
from pathlib import Path
from typing import Any, Self

from nanodistill.errors import CorruptFileError, FolderError, NewerVersionError
from nanodistill.journal.entries import (
    Attempt,
    Call,
    CallState,
    Record,
    StoredResponse,
    Unpriced,
    UsageTotals,
    Validated,
)
from nanodistill.journal.journal_errors import (
    commit_counter_of,
    corrupt_journal,
    translate_sqlite_errors,
)
from nanodistill.journal.sql import (
    ATTEMPTS,
    COUNTS,
    HEAD,
    INSERT_ATTEMPT,
    INSERT_NOTE,
    INSERT_RESPONSE,
    LAST,
    NOTES,
    REMARK,
    SCHEMA,
    SUMS,
    UNPRICED,
    crc_of,
    from_attempt,
    from_note,
    from_response,
    from_validated,
    register_functions,
    to_attempt,
    to_head,
    to_note,
    to_response,
    to_sums,
)
from nanodistill.run_dir import sync_folder
from nanodistill.types import Usage


class CommitCounter:
    """The counter of a journal that is being written. It stays open: a commit opens no file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(commit_counter_of(path), os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, counts: tuple[int, int]) -> None:
        """One small write in place: a process that dies leaves the old counts or the new ones.

        It is not synced, so that it costs nothing: after a power cut it may be older
        than the journal, which claims too little and never too much.
        """
        os.pwrite(self._descriptor, b"%020d %020d\n" % counts, 0)

    def close(self) -> None:
        os.close(self._descriptor)


def read_commit_count(path: Path) -> tuple[int, int]:
    """How many responses and attempts were committed, by the counter: none without one.

    Raises:
        CorruptFileError: the counter is torn.
    """
    try:
        text = commit_counter_of(path).read_bytes()
    except FileNotFoundError:
        return 0, 0
    try:
        responses, attempts = map(int, text.split())
    except ValueError as torn:
        name = commit_counter_of(path).name
        raise corrupt_journal(path, f"its commit counter, {name}, is torn") from torn
    return responses, attempts


APPLICATION = 0x4E616E6F
FORMAT = 2
TABLES = ("responses", "attempts", "notes")
BEGIN = f"""
    BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {SCHEMA}
    INSERT INTO notes VALUES ('format', '{FORMAT}', {crc_of("format", str(FORMAT))}); COMMIT;
"""


def check_format(path: Path, connection: sqlite3.Connection) -> None:
    """See that this is a journal of today's format.

    Raises:
        NewerVersionError, CorruptFileError: it is none.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables:
        raise corrupt_journal(path, "it is empty")
    if tables.isdisjoint(TABLES) and application != APPLICATION:
        raise _not_ours(path)
    noted = _noted_format(connection) if "notes" in tables else None
    if application == APPLICATION and found > FORMAT and noted in (str(found), None):
        raise _newer(path, found)
    if (application, found, noted) != (APPLICATION, FORMAT, str(FORMAT)):
        raise corrupt_journal(path, "its header is not the one that was written")


def _noted_format(connection: sqlite3.Connection) -> str | None:
    """The format as it is noted beside the header, which a flipped bit would change unnoticed."""
    row = connection.execute("SELECT value FROM notes WHERE name = 'format'").fetchone()
    return None if row is None else str(row[0])


def _newer(path: Path, found: int) -> NewerVersionError:
    return NewerVersionError(
        f"{path} was written by a newer NanoDistill "
        f"(journal format {found}, this one knows {FORMAT}).",
        next_step="Update NanoDistill, or choose another output_dir or name.",
    )


def _not_ours(path: Path) -> CorruptFileError:
    return CorruptFileError(
        f"{path} is an SQLite file, but not a journal of ours.",
        next_step="Move it away, or choose another output_dir or name.",
    )


WAIT_FOR_LOCK = 5.0
"""Seconds. A reader that checkpoints holds the lock for milliseconds; longer is another writer."""


class Journal:
    """An open journal. Make one with `open_journal` or `read_journal`."""

    def __init__(self, path: Path, writer: sqlite3.Connection | None) -> None:
        self.path = path
        self._writer = writer
        self._reader = _connect_to_read(path)
        self._found = _last(self._reader)[0]
        self._notes: dict[str, str] = {}
        self._counter: CommitCounter | None = None
        self._writing = threading.Lock()
        self._reading = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold the WAL into the journal and let go of it."""
        with self._reading:
            self._reader.close()
        if self._writer is None:
            return
        try:
            if self._notes:
                self.commit([])
        finally:
            self._writer.close()
            if self._counter is not None:
                self._counter.close()

    def commit(self, records: Sequence[Record]) -> None:
        """Make `records` durable, all or none. A key that is already there keeps its response.

        Blocks until the disk has them.

        Raises:
            DiskFullError: no room; nothing of `records` was written.
        """
        with self._writing, translate_sqlite_errors(self.path):
            notes = dict(self._notes)
            with self._transaction() as writer:
                _insert(writer, records, notes)
                counts = _last(writer)
            self._commit_counter().write(counts)
            self._forget(notes)

    def states(self, keys: Iterable[str]) -> dict[str, CallState]:
        """What is there under `keys`."""
        found: dict[str, CallState] = {}
        for was_there, *row in self._select(f"id <= ?, {HEAD}", keys, self._found):
            with self._checked_row("a response"):
                head = to_head(row)
            found[head.key] = CallState(bool(was_there), head.failure, head.finish, head.whole_by)
        return found

    def responses(self, keys: Iterable[str]) -> dict[str, StoredResponse]:
        """The responses under `keys`; those that are not there are left out."""
        found: dict[str, StoredResponse] = {}
        for body, *row in self._select(f"body, {HEAD}", keys):
            with self._checked_row("a response"):
                response = to_response(to_head(row), body)
            found[response.key] = response
        return found

    def sums(self) -> dict[str, UsageTotals]:
        """The ledger by stage, in the order in which the stages were first called."""
        with self._checked_row("an attempt"):
            return {row[0]: to_sums(row[1:]) for row in self._query(SUMS)}

    def unpriced(self) -> dict[str, Unpriced]:
        """The answers in the ledger whose cost is not known, by model."""
        rows = self._query(UNPRICED)
        return {model: Unpriced(Usage(*tokens), n) for model, *tokens, n in rows}

    def attempts(self) -> Iterator[Attempt]:
        """The whole ledger, oldest first."""
        last = 0
        while rows := self._query(ATTEMPTS, (last,)):
            for id, crc, *row in rows:
                if id != last + 1:
                    raise corrupt_journal(self.path, f"attempt {last + 1} is missing")
                last = id
                with self._checked_row("an attempt"):
                    attempt = to_attempt(crc, row)
                yield attempt

    def note(self, name: str) -> str | None:
        """A fact of the run that was kept with `keep_note`."""
        if name in self._notes:
            return self._notes[name]
        rows = self._query(f"{NOTES} WHERE name = ?", (name,))
        with self._checked_row("a note"):
            return to_note(rows[0]) if rows else None

    def keep_note(self, name: str, value: str) -> None:
        """Keep a fact of the run, with the next commit, in place of what had this name.

        Does not block.
        """
        self._notes[name] = value

    def _commit_counter(self) -> CommitCounter:
        """The counter, which comes into being with the first commit."""
        if self._counter is None:
            self._counter = CommitCounter(self.path)
        return self._counter

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._writer is None:
            raise FolderError(f"{self.path} was opened for reading.")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):
                self._writer.execute("ROLLBACK")
            raise

    def _forget(self, kept: Mapping[str, str]) -> None:
        for name, value in kept.items():
            if self._notes[name] == value:
                del self._notes[name]

    def _select(self, columns: str, keys: Iterable[str], *values: int) -> list[Any]:
        wanted = [bytes.fromhex(key) for key in keys]
        marks = ",".join("?" * len(wanted))
        statement = f"SELECT {columns} FROM responses WHERE key IN ({marks})"
        return self._query(statement, [*values, *wanted])

    @contextmanager
    def _checked_row(self, what: str) -> Iterator[None]:
        """A row that is not what was written is damage."""
        try:
            yield
        except (ValueError, TypeError, KeyError) as error:
            raise corrupt_journal(self.path, f"{what} can't be read: {error}") from error

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reading, translate_sqlite_errors(self.path):
            return self._reader.execute(statement, values).fetchall()


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path` for writing, or begin a new one.

    Raises:
        CorruptFileError, NewerVersionError, RunLockedError, DiskFullError: what the file is or is
            not.
    """
    with translate_sqlite_errors(path):
        _create(path)
        with ExitStack() as undo:
            writer = undo.enter_context(closing(_connect(path)))
            _check(path, writer)
            _prepare(writer)
            undo.pop_all()
    with Journal(path, writer) as journal:
        yield journal


@contextmanager
def read_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path` for reading, also while a run writes it.

    Raises:
        FolderError: there is none.
        CorruptFileError, NewerVersionError: what it is instead.
    """
    if not path.exists():
        raise FolderError(f"there is no journal at {path}.")
    with translate_sqlite_errors(path), closing(_connect_to_read(path)) as reader:
        _check(path, reader)
    with Journal(path, None) as journal:
        yield journal


def _create(path: Path) -> None:
    """Begin a journal where there is none. A crash leaves it out, or there and complete."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600))
    with closing(_connect(part)) as connection:
        connection.executescript(f"{BEGIN} PRAGMA journal_mode = WAL;")
    part.replace(path)
    sync_folder(path.parent)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Reads alone, but may recover what a crash left: SQLite's own mode "ro" can't always."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    with translate_sqlite_errors(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=WAIT_FOR_LOCK,
            isolation_level=None,
            check_same_thread=False,
        )
    register_functions(connection)
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    check_format(path, connection)
    _check_count(path, connection)
    _check_pages(path, connection)
    _check_notes(path, connection)


def _prepare(writer: sqlite3.Connection) -> None:
    writer.execute("PRAGMA journal_mode = WAL").fetchall()
    writer.execute("PRAGMA synchronous = FULL")
    if sys.platform == "darwin":
        writer.execute("PRAGMA fullfsync = 1")
        writer.execute("PRAGMA checkpoint_fullfsync = 1")


def _check_count(path: Path, connection: sqlite3.Connection) -> None:
    """Compare with the counter, read first: a writer at work is ahead of it, never behind."""
    counted = read_commit_count(path)
    responses, attempts, *last = connection.execute(COUNTS).fetchone()
    if responses < counted[0] or attempts < counted[1]:
        raise corrupt_journal(
            path,
            f"it holds {responses} responses and {attempts} attempts, "
            f"while {counted[0]} and {counted[1]} were committed",
        )
    if [responses, attempts] != last:
        raise corrupt_journal(path, "its rows are not numbered one after the other")


def _check_pages(path: Path, connection: sqlite3.Connection) -> None:
    problems = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
    if problems != ["ok"]:
        raise corrupt_journal(path, problems[0])


def _check_notes(path: Path, connection: sqlite3.Connection) -> None:
    """All of them, since one under a wrong name would not be missed."""
    try:
        for row in connection.execute(NOTES):
            to_note(row)
    except ValueError as error:
        raise corrupt_journal(path, f"a note can't be read: {error}") from error


def _last(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many responses and attempts there are. Nothing is ever deleted, so the last id tells."""
    responses, attempts = connection.execute(LAST).fetchone()
    return responses, attempts


def _insert(
    writer: sqlite3.Connection, records: Sequence[Record], notes: Mapping[str, str]
) -> None:
    calls = [record for record in records if isinstance(record, Call)]
    responses = [call.response for call in calls if call.response is not None]
    remarks = [record for record in records if isinstance(record, Validated)]
    writer.executemany(INSERT_ATTEMPT, (from_attempt(call.attempt) for call in calls))
    writer.executemany(INSERT_RESPONSE, map(from_response, responses))
    writer.executemany(REMARK, map(from_validated, remarks))
    writer.executemany(INSERT_NOTE, starmap(from_note, notes.items()))
