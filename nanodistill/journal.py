"""The crash-safe store of every teacher call: what was paid for is never lost or bought twice.

One record is a `Call`: an attempt, for the ledger, and with it the `Response`
where the attempt brought one that is final, an answer or a refusal. `commit`
returns when the records are on the disk (SQLite, WAL, synchronous=FULL), all of
them or none; only then may anyone parse, count or show what they hold. A crash
costs what was not yet committed: calls in flight.

A response is found by its request's key, which says nothing about stages,
settings of the run or time. It is never changed or deleted. Its `whole_by` is
a remark and no more: the rules (`answers.RULES`) by which it has been found
to be a whole answer, so that resuming need not parse it again.

SQLite itself forgets the end of a WAL that is cut short, without a word. So each
commit also writes how many records there are into a small file beside the
journal, the seal; a journal with fewer is damaged and said to be. Deleting the
seal accepts the loss.

Not promised: detection of a flipped bit inside a text; two writers. Files are
readable by their owner alone. All methods block: not for an event loop, see
`nanodistill.teacher.recorder`.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from nanodistill.errors import (
    DamagedFile,
    DiskFull,
    FolderError,
    NanoDistillError,
    NewerVersion,
    RunLocked,
)
from nanodistill.records import Completion, Usage
from nanodistill.runfolder import sync_folder

APPLICATION = 0x4E616E6F
FORMAT = 1
WAIT_FOR_LOCK = 5.0
FULL_BELOW = 1 << 20

SCHEMA = """
CREATE TABLE responses (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    stage TEXT NOT NULL,
    failure TEXT,
    finish TEXT,
    body TEXT NOT NULL,
    whole_by INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    stage TEXT NOT NULL,
    model TEXT NOT NULL,
    key BLOB NOT NULL,
    cause TEXT NOT NULL,
    outcome TEXT NOT NULL,
    kind TEXT,
    status INTEGER,
    latency REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_usd REAL
);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

Cause = Literal["first", "retry", "longer", "repair"]
Outcome = Literal["answered", "refused", "failed", "row_failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call, as the ledger keeps it.

    `cause` is why it was made: for the first time, again after a failure, with
    more room for a truncated answer, or to repair a malformed one. `refused` is
    "too fast", `failed` any other transient failure. `cost_usd` is None where
    the price is not known.
    """

    at: float
    stage: str
    model: str
    key: str
    cause: Cause
    outcome: Outcome
    kind: str | None = None
    status: int | None = None
    latency: float = 0.0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What a request came to for good: a completion, or a failure that asking again won't mend."""

    key: str
    stage: str
    completion: Completion | None = None
    failure: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What one commit makes durable together."""

    attempt: Attempt
    response: Response | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """The remark that the completion under `key` was found whole by the rules `by`."""

    key: str
    by: int


Record = Call | Whole


@dataclass(frozen=True, slots=True)
class State:
    """What can be said of a response without reading its text."""

    failure: str | None
    finish: str | None
    whole_by: int


@dataclass(frozen=True, slots=True)
class Sums:
    """The ledger of one stage, or of several added up.

    `calls` are all attempts; `answered` of them brought a completion, `refused`
    were "too fast", `failed` the other failures. `retries`, `repairs` and `longer`
    are attempts by cause. `cost_usd` adds up what is known; `unpriced` counts the
    answers whose cost is not.
    """

    calls: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    retries: int = 0
    repairs: int = 0
    longer: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    unpriced: int = 0
    seconds: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in Sums.__slots__})

    @property
    def known_cost(self) -> float | None:
        """Dollars, or None where one of the answers has no known price."""
        return None if self.unpriced else self.cost_usd


class Journal:
    """An open journal. Make one with `open_journal` or `read_journal`."""

    def __init__(self, path: Path, writer: sqlite3.Connection | None) -> None:
        self.path = path
        self._writer = writer
        self._reader = _connect(path, "ro")
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
        if self._writer is not None:
            if self._notes:
                self.commit([])
            self._writer.close()

    def commit(self, records: Sequence[Record]) -> None:
        """Make `records` durable, all or none. A key that is already there keeps its response.

        Raises:
            DiskFull: no room; nothing of `records` was written.
        """
        with self._writing, _plain_errors(self.path):
            with self._transaction() as writer:
                self._insert(writer, records)
                counts = _counts(writer)
            _write_seal(self.path, counts)

    def states(self, keys: Iterable[str]) -> dict[str, State]:
        """What is there under `keys`."""
        rows = self._select("key, failure, finish, whole_by", keys)
        return {row[0].hex(): State(*row[1:]) for row in rows}

    def responses(self, keys: Iterable[str]) -> dict[str, Response]:
        """The responses under `keys`; those that are not there are left out."""
        rows = self._select("key, stage, failure, body", keys)
        return {row[0].hex(): _to_response(*row) for row in rows}

    def sums(self) -> dict[str, Sums]:
        """The ledger by stage, in the order in which the stages were first called."""
        rows = self._query(SUMS)
        return {row[0]: _to_sums(row[1:]) for row in rows}

    def attempts(self) -> Iterator[Attempt]:
        """The whole ledger, oldest first."""
        last = 0
        while rows := self._query(ATTEMPTS, (last,)):
            last = rows[-1][0]
            yield from (_to_attempt(row[1:]) for row in rows)

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

    def _insert(self, writer: sqlite3.Connection, records: Sequence[Record]) -> None:
        writer.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", list(self._notes.items()))
        calls = [record for record in records if isinstance(record, Call)]
        writer.executemany(INSERT_ATTEMPT, (_from_attempt(call.attempt) for call in calls))
        writer.executemany(
            INSERT_RESPONSE,
            (_from_response(call.response) for call in calls if call.response is not None),
        )
        writer.executemany(
            "UPDATE responses SET whole_by = ? WHERE key = ?",
            (
                (record.by, bytes.fromhex(record.key))
                for record in records
                if isinstance(record, Whole)
            ),
        )

    def _select(self, columns: str, keys: Iterable[str]) -> list[Any]:
        wanted = [bytes.fromhex(key) for key in keys]
        marks = ",".join("?" * len(wanted))
        return self._query(f"SELECT {columns} FROM responses WHERE key IN ({marks})", wanted)

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reading, _plain_errors(self.path):
            return self._reader.execute(statement, values).fetchall()


INSERT_ATTEMPT = """
    INSERT INTO attempts (at, stage, model, key, cause, outcome, kind, status, latency,
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_RESPONSE = """
    INSERT INTO responses (key, stage, failure, finish, body) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING
"""
ATTEMPTS = "SELECT * FROM attempts WHERE id > ? ORDER BY id LIMIT 1000"
SUMS = """
    SELECT stage, count(*), sum(outcome = 'answered'), sum(outcome = 'refused'),
        sum(outcome NOT IN ('answered', 'refused')),
        sum(cause = 'retry'), sum(cause = 'repair'), sum(cause = 'longer'),
        sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens),
        total(cost_usd), sum(outcome = 'answered' AND cost_usd IS NULL), total(latency)
    FROM attempts GROUP BY stage ORDER BY min(id)
"""


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path` for writing, or begin a new one.

    Raises:
        DamagedFile, NewerVersion, RunLocked, DiskFull: what the file is or is not.
    """
    with _plain_errors(path):
        _create(path)
        writer = _connect(path, "rw")
        try:
            _check_format(path, writer)
            _prepare(writer)
            _check_content(path, writer)
        except BaseException:
            writer.close()
            raise
    with Journal(path, writer) as journal:
        yield journal


@contextmanager
def read_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path` for reading, also while a run writes it.

    Raises:
        FolderError: there is none.
    """
    if not path.exists():
        raise FolderError(f"there is no journal at {path}.")
    with closing(_connect(path, "ro")) as reader, _plain_errors(path):
        _check_format(path, reader)
    with Journal(path, None) as journal:
        yield journal


def seal_of(path: Path) -> Path:
    """The file beside the journal that says how many records were committed."""
    return path.with_name(f"{path.name}-seal")


def _create(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    sync_folder(path.parent)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    with _plain_errors(path):
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
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
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION and tables:
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
    (application,) = writer.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        writer.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION};"
            f"PRAGMA user_version = {FORMAT}; {SCHEMA} COMMIT;"
        )


def _check_content(path: Path, writer: sqlite3.Connection) -> None:
    problems = [row[0] for row in writer.execute("PRAGMA quick_check(1)")]
    if problems != ["ok"]:
        raise _damaged(path, problems[0])
    found, sealed = _counts(writer), _read_seal(path)
    if sealed is not None and (found[0] < sealed[0] or found[1] < sealed[1]):
        raise _damaged(
            path,
            f"it holds {found[0]} responses and {found[1]} attempts, "
            f"while {sealed[0]} and {sealed[1]} were committed",
        )


def _counts(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many responses and attempts there are; nothing is ever deleted, so the last id tells."""
    statement = (
        "SELECT coalesce((SELECT max(id) FROM responses), 0),"
        " coalesce((SELECT max(id) FROM attempts), 0)"
    )
    responses, attempts = connection.execute(statement).fetchone()
    return responses, attempts


def _write_seal(path: Path, counts: tuple[int, int]) -> None:
    """One small write in place: a process that dies leaves the old seal or the new one.

    It is not synced, so that it costs nothing: after a power cut it may be older
    than the journal, which claims too little and never too much.
    """
    descriptor = os.open(seal_of(path), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, b"%020d %020d\n" % counts, 0)
    finally:
        os.close(descriptor)


def _read_seal(path: Path) -> tuple[int, int] | None:
    try:
        text = seal_of(path).read_bytes()
    except FileNotFoundError:
        return None
    try:
        responses, attempts = map(int, text.split())
    except ValueError as torn:
        raise _damaged(path, f"its seal, {seal_of(path).name}, is torn") from torn
    return responses, attempts


def _damaged(path: Path, what: str) -> DamagedFile:
    return DamagedFile(
        f"the journal {path} is damaged: {what}.",
        next_step=f"Put back {path.name}, {path.name}-wal and {seal_of(path).name} from a "
        f"backup. Without one: delete {seal_of(path).name} to go on with what the journal still "
        f"holds, or if that does not open either, move {path.name} away to begin again. What was "
        "lost is asked, and paid, again.",
    )


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors in our words."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise _explained_os(path, error) from error


def _explained(path: Path, error: sqlite3.DatabaseError) -> Exception:
    code = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return _disk_full(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RunLocked(
            f"another process is writing {path}.",
            next_step="Wait for it to end, or stop it, then run the command again.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return FolderError(f"can't write the journal {path}: {error}.")
    if code == sqlite3.SQLITE_IOERR:
        return NanoDistillError(f"can't read or write the journal {path}: {error}.")
    return error


def _explained_os(path: Path, error: OSError) -> NanoDistillError:
    if _is_full(path):
        return _disk_full(path)
    return FolderError(f"can't write the journal {path}: {error}.")


def _is_full(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < FULL_BELOW


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(
        f"no room left on the disk of {path}.",
        next_step="Make room and run the same command: it goes on from what is safe.",
    )


def _from_attempt(attempt: Attempt) -> tuple[Any, ...]:
    usage = attempt.usage
    return (
        attempt.at,
        attempt.stage,
        attempt.model,
        bytes.fromhex(attempt.key),
        attempt.cause,
        attempt.outcome,
        attempt.kind,
        attempt.status,
        attempt.latency,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        attempt.cost_usd,
    )


def _to_attempt(row: Sequence[Any]) -> Attempt:
    at, stage, model, key, cause, outcome, kind, status, latency, *tokens, cost = row
    return Attempt(
        at, stage, model, key.hex(), cause, outcome, kind, status, latency, Usage(*tokens), cost
    )


def _from_response(response: Response) -> tuple[Any, ...]:
    key, completion = bytes.fromhex(response.key), response.completion
    if completion is None:
        message = response.message.encode(errors="replace").decode()
        return (key, response.stage, response.failure, None, message)
    return (key, response.stage, None, completion.finish_reason, _to_body(completion))


def _to_body(completion: Completion) -> str:
    """JSON, readable where it can be; half characters, which a teacher may send, are escaped."""
    fields = asdict(completion)
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    try:
        body.encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":"))
    return body


def _to_response(key: bytes, stage: str, failure: str | None, body: str) -> Response:
    if failure is not None:
        return Response(key.hex(), stage, failure=failure, message=body)
    fields: Mapping[str, Any] = json.loads(body)
    completion = Completion(**{**fields, "usage": Usage(**fields["usage"])})
    return Response(key.hex(), stage, completion)


def _to_sums(row: Sequence[Any]) -> Sums:
    calls, answered, refused, failed, retries, repairs, longer, *rest = row
    *tokens, cost, unpriced, seconds = rest
    return Sums(
        calls,
        answered,
        refused,
        failed,
        retries,
        repairs,
        longer,
        Usage(*tokens),
        cost,
        unpriced,
        seconds,
    )
