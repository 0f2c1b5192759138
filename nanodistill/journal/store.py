"""The journal's file: opening, committing, reading."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from nanodistill.errors import DamagedFile, FolderError, NewerVersion
from nanodistill.journal.entries import (
    Attempt,
    Call,
    Record,
    Response,
    State,
    Sums,
    Whole,
)
from nanodistill.journal.rows import (
    ATTEMPTS,
    COUNTS,
    INSERT_ATTEMPT,
    INSERT_NOTE,
    INSERT_RESPONSE,
    REMARK,
    SCHEMA,
    SUMS,
    from_attempt,
    from_response,
    to_attempt,
    to_response,
    to_sums,
)
from nanodistill.journal.seal import read_seal, write_seal
from nanodistill.journal.trouble import damaged, plain_errors
from nanodistill.runfolder import sync_folder

APPLICATION = 0x4E616E6F
FORMAT = 1
WAIT_FOR_LOCK = 5.0


class Journal:
    """An open journal. Make one with `open_journal` or `read_journal`."""

    def __init__(self, path: Path, writer: sqlite3.Connection | None) -> None:
        self.path = path
        self._writer = writer
        self._reader = _connect_to_read(path)
        self._found = _counts(self._reader)[0]
        self._notes: dict[str, str] = {}
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

    def commit(self, records: Sequence[Record]) -> None:
        """Make `records` durable, all or none. A key that is already there keeps its response.

        Raises:
            DiskFull: no room; nothing of `records` was written.
        """
        with self._writing, plain_errors(self.path):
            notes = dict(self._notes)
            with self._transaction() as writer:
                _insert(writer, records, notes)
                counts = _counts(writer)
            write_seal(self.path, counts)
            self._forget(notes)

    def states(self, keys: Iterable[str]) -> dict[str, State]:
        """What is there under `keys`."""
        rows = self._select("key, id <= ?, failure, finish, whole_by", keys, self._found)
        return {row[0].hex(): State(bool(row[1]), *row[2:]) for row in rows}

    def responses(self, keys: Iterable[str]) -> dict[str, Response]:
        """The responses under `keys`; those that are not there are left out."""
        rows = self._select("key, stage, failure, body, whole_by", keys)
        return {row[0].hex(): self._response(row) for row in rows}

    def sums(self) -> dict[str, Sums]:
        """The ledger by stage, in the order in which the stages were first called."""
        rows = self._query(SUMS)
        return {row[0]: to_sums(row[1:]) for row in rows}

    def attempts(self) -> Iterator[Attempt]:
        """The whole ledger, oldest first."""
        last = 0
        while rows := self._query(ATTEMPTS, (last,)):
            last = rows[-1][0]
            yield from (to_attempt(row[1:]) for row in rows)

    def note(self, name: str) -> str | None:
        """A fact of the run that was kept with `keep_note`."""
        if name in self._notes:
            return self._notes[name]
        rows = self._query("SELECT value FROM notes WHERE name = ?", (name,))
        return None if not rows else str(rows[0][0])

    def keep_note(self, name: str, value: str) -> None:
        """Keep a fact of the run, with the next commit, in place of what had this name.

        Does not block.
        """
        self._notes[name] = value

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

    def _response(self, row: Sequence[Any]) -> Response:
        """SQLite does not notice where a page lost the end of a text."""
        try:
            return to_response(*row)
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self.path, f"the response {row[0].hex()} can't be read") from error

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reading, plain_errors(self.path):
            return self._reader.execute(statement, values).fetchall()


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path` for writing, or begin a new one.

    Raises:
        DamagedFile, NewerVersion, RunLocked, DiskFull: what the file is or is not.
    """
    with plain_errors(path):
        _create(path)
        with ExitStack() as undo:
            writer = undo.enter_context(closing(_connect(path)))
            _check_format(path, writer)
            _check_count(path, writer)
            _prepare(writer)
            _check_pages(path, writer)
            undo.pop_all()
    with Journal(path, writer) as journal:
        yield journal


@contextmanager
def read_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path` for reading, also while a run writes it.

    Raises:
        FolderError: there is none.
        DamagedFile, NewerVersion: what it is instead.
    """
    if not path.exists():
        raise FolderError(f"there is no journal at {path}.")
    with plain_errors(path), closing(_connect_to_read(path)) as reader:
        _check_format(path, reader)
        _check_count(path, reader)
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
        connection.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};"
            f"{SCHEMA} COMMIT; PRAGMA journal_mode = WAL;"
        )
    part.replace(path)
    sync_folder(path.parent)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Reads alone, but may recover what a crash left: SQLite's own mode "ro" can't always."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    with plain_errors(path):
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=WAIT_FOR_LOCK,
            isolation_level=None,
            check_same_thread=False,
        )


def _check_format(path: Path, connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if found > FORMAT and application == APPLICATION:
        raise NewerVersion(
            f"{path} was written by a newer NanoDistill "
            f"(journal format {found}, this one knows {FORMAT}).",
            next_step="Update NanoDistill, or choose another output_dir or name.",
        )
    if application == APPLICATION:
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        raise damaged(path, "it is empty")
    raise DamagedFile(
        f"{path} is an SQLite file, but not a journal of ours.",
        next_step="Move it away, or choose another output_dir or name.",
    )


def _prepare(writer: sqlite3.Connection) -> None:
    writer.execute("PRAGMA journal_mode = WAL").fetchall()
    writer.execute("PRAGMA synchronous = FULL")
    if sys.platform == "darwin":
        writer.execute("PRAGMA fullfsync = 1")
        writer.execute("PRAGMA checkpoint_fullfsync = 1")


def _check_count(path: Path, connection: sqlite3.Connection) -> None:
    """Compare with the seal, which is read first: a writer at work is ahead of it, never behind."""
    sealed, found = read_seal(path), _counts(connection)
    if found[0] < sealed[0] or found[1] < sealed[1]:
        raise damaged(
            path,
            f"it holds {found[0]} responses and {found[1]} attempts, "
            f"while {sealed[0]} and {sealed[1]} were committed",
        )


def _check_pages(path: Path, writer: sqlite3.Connection) -> None:
    problems = [row[0] for row in writer.execute("PRAGMA quick_check(1)")]
    if problems != ["ok"]:
        raise damaged(path, problems[0])


def _counts(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many responses and attempts there are; nothing is ever deleted, so the last id tells."""
    responses, attempts = connection.execute(COUNTS).fetchone()
    return responses, attempts


def _insert(
    writer: sqlite3.Connection, records: Sequence[Record], notes: Mapping[str, str]
) -> None:
    calls = [record for record in records if isinstance(record, Call)]
    responses = [call.response for call in calls if call.response is not None]
    remarks = [record for record in records if isinstance(record, Whole)]
    writer.executemany(INSERT_ATTEMPT, (from_attempt(call.attempt) for call in calls))
    writer.executemany(INSERT_RESPONSE, map(from_response, responses))
    writer.executemany(REMARK, ((whole.by, bytes.fromhex(whole.key)) for whole in remarks))
    writer.executemany(INSERT_NOTE, notes.items())
