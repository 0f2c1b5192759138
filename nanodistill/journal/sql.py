"""The journal's tables and statements, and the way between rows and entries.

Each row has a checksum, so that a flipped bit is damage and never an answer: CRC-32 of the values
in Python's `ascii` notation, which tells types and borders apart and is the same in every version.
It is meant against disks and memory, not against people: whoever can write the file can write the
checksum.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nanodistill.journal.entries import ASKED_AGAIN, Attempt, StoredResponse, UsageTotals, Validated
from nanodistill.types import Completion, Usage


def crc_of(*values: object) -> int:
    """The checksum of a row's values, in the types in which SQLite gives them back."""
    return zlib.crc32(ascii(values).encode())


def crc_of_text(text: str) -> int:
    """The checksum of a long text."""
    return zlib.crc32(text.encode())


def register_functions(connection: sqlite3.Connection) -> None:
    """Let statements of `connection` use `crc_of` and `crc_of_text`."""
    connection.create_function("crc_of", -1, crc_of, deterministic=True)
    connection.create_function("crc_of_text", 1, crc_of_text, deterministic=True)


COMPLETION = tuple(field.name for field in fields(Completion))
USAGE = tuple(field.name for field in fields(Usage))
MISMATCH = "its checksum is another"
SCHEMA = """
CREATE TABLE responses (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    stage TEXT NOT NULL,
    failure TEXT,
    finish TEXT,
    whole_by INTEGER NOT NULL DEFAULT 0,
    whole_crc INTEGER NOT NULL DEFAULT 0,
    body_crc INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    body TEXT NOT NULL
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
    cost_usd REAL,
    crc INTEGER NOT NULL
);
CREATE TABLE notes (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
"""
ATTEMPT = """at, stage, model, key, cause, outcome, kind, status, latency,
    prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd"""
HEAD = "key, stage, failure, finish, whole_by, whole_crc, body_crc, crc"
"""What is to be known of a response without its text; `to_head` reads it."""

INSERT_ATTEMPT = f"""
    INSERT INTO attempts ({ATTEMPT}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_RESPONSE = f"""
    INSERT INTO responses (key, stage, failure, finish, body_crc, crc, body)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET (stage, failure, finish, body_crc, crc, body)
        = (excluded.stage, excluded.failure, excluded.finish, excluded.body_crc, excluded.crc,
           excluded.body)
    WHERE responses.failure IN ({", ".join(f"'{kind}'" for kind in sorted(ASKED_AGAIN))})
"""
INSERT_NOTE = "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)"
REMARK = "UPDATE responses SET whole_by = ?, whole_crc = ? WHERE key = ?"
LAST = """
    SELECT coalesce((SELECT max(id) FROM responses), 0),
        coalesce((SELECT max(id) FROM attempts), 0)
"""
COUNTS = f"""
    SELECT (SELECT count(*) FROM responses), (SELECT count(*) FROM attempts), * FROM ({LAST})
"""
NOTES = "SELECT name, value, crc FROM notes"
ATTEMPTS = f"SELECT id, crc, {ATTEMPT} FROM attempts WHERE id > ? ORDER BY id LIMIT 1000"
SUMS = f"""
    SELECT stage, count(*), sum(outcome = 'answered'), sum(outcome = 'refused'),
        sum(outcome NOT IN ('answered', 'refused')),
        sum(cause = 'retry'), sum(cause = 'repair'), sum(cause = 'longer'),
        sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens),
        total(cost_usd), sum(outcome = 'answered' AND cost_usd IS NULL), total(latency),
        sum(crc <> crc_of({ATTEMPT}))
    FROM attempts GROUP BY stage ORDER BY min(id)
"""

UNPRICED = """
    SELECT model, sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens),
        sum(reasoning_tokens), sum(prompt_tokens + completion_tokens = 0)
    FROM attempts WHERE outcome = 'answered' AND cost_usd IS NULL GROUP BY model
"""


def from_attempt(attempt: Attempt) -> tuple[Any, ...]:
    """A row of `ATTEMPT` and its checksum, in the types in which it will be read."""
    usage, cost = attempt.usage, attempt.cost_usd
    row = (
        float(attempt.at),
        attempt.stage,
        attempt.model,
        bytes.fromhex(attempt.key),
        attempt.cause,
        attempt.outcome,
        attempt.kind,
        attempt.status,
        float(attempt.latency),
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        None if cost is None else float(cost),
    )
    return (*row, crc_of(*row))


def to_attempt(crc: int, row: Sequence[Any]) -> Attempt:
    """
    Raises:
        ValueError: it is not what `from_attempt` made.
    """
    if crc_of(*row) != crc:
        raise ValueError(MISMATCH)
    at, stage, model, key, cause, outcome, kind, status, latency, *tokens, cost = row
    return Attempt(
        at, stage, model, key.hex(), cause, outcome, kind, status, latency, Usage(*tokens), cost
    )


def from_response(response: StoredResponse) -> tuple[Any, ...]:
    completion = response.completion
    if completion is None:
        finish, body = None, response.message.encode(errors="replace").decode()
    else:
        finish, body = completion.finish_reason, _to_body(completion)
    head = (bytes.fromhex(response.key), response.stage, response.failure, finish)
    body_crc = crc_of_text(body)
    return (*head, body_crc, crc_of(*head, body_crc), body)


def from_validated(whole: Validated) -> tuple[Any, ...]:
    key = bytes.fromhex(whole.key)
    return whole.by, _validation_crc(key, whole.by), key


def from_note(name: str, value: str) -> tuple[Any, ...]:
    return name, value, crc_of(name, value)


def _validation_crc(key: bytes, by: int) -> int:
    return crc_of(key, by) if by else 0


def _to_body(completion: Completion) -> str:
    """JSON, readable where it can be; half characters, which a teacher may send, are escaped."""
    said = {name: getattr(completion, name) for name in COMPLETION}
    said["usage"] = {name: getattr(completion.usage, name) for name in USAGE}
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    try:
        body.encode()
    except UnicodeEncodeError:
        return json.dumps(said, separators=(",", ":"))
    return body


@dataclass(frozen=True, slots=True)
class Head:
    """A response but for its text."""

    key: str
    stage: str
    failure: str | None
    finish: str | None
    whole_by: int
    body_crc: int


def to_head(row: Sequence[Any]) -> Head:
    """
    Raises:
        ValueError: it is not what was written.
    """
    key, stage, failure, finish, whole_by, whole_crc, body_crc, crc = row
    is_sound = crc_of(key, stage, failure, finish, body_crc) == crc
    if not is_sound or _validation_crc(key, whole_by) != whole_crc:
        raise ValueError(MISMATCH)
    return Head(key.hex(), stage, failure, finish, whole_by, body_crc)


def to_response(head: Head, body: str) -> StoredResponse:
    """
    Raises:
        ValueError, TypeError, KeyError: `body` is not what `from_response` made.
    """
    if crc_of_text(body) != head.body_crc:
        raise ValueError(MISMATCH)
    if head.failure is not None:
        return StoredResponse(head.key, head.stage, failure=head.failure, message=body)
    said: Mapping[str, Any] = json.loads(body)
    completion = Completion(**{**said, "usage": Usage(**said["usage"])})
    return StoredResponse(head.key, head.stage, completion, whole_by=head.whole_by)


def to_note(row: Sequence[Any]) -> str:
    """
    Raises:
        ValueError: it is not what was written.
    """
    name, value, crc = row
    if crc_of(name, value) != crc:
        raise ValueError(MISMATCH)
    return str(value)


def to_sums(row: Sequence[Any]) -> UsageTotals:
    """
    Raises:
        ValueError: an attempt that was added up is not what was written.
    """
    calls, answered, refused, failed, retries, repairs, longer, *rest = row
    *tokens, cost, unpriced, seconds, mismatched = rest
    if mismatched:
        raise ValueError(MISMATCH)
    return UsageTotals(
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
