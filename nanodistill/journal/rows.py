"""Tables, statements, and the way between rows and entries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nanodistill.journal.entries import Attempt, Response, Sums
from nanodistill.records import Completion, Usage

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

INSERT_ATTEMPT = """
    INSERT INTO attempts (at, stage, model, key, cause, outcome, kind, status, latency,
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_RESPONSE = """
    INSERT INTO responses (key, stage, failure, finish, body) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING
"""
INSERT_NOTE = "INSERT OR REPLACE INTO notes VALUES (?, ?)"
REMARK = "UPDATE responses SET whole_by = ? WHERE key = ?"
COUNTS = """
    SELECT coalesce((SELECT max(id) FROM responses), 0),
        coalesce((SELECT max(id) FROM attempts), 0)
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


def from_attempt(attempt: Attempt) -> tuple[Any, ...]:
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


def to_attempt(row: Sequence[Any]) -> Attempt:
    at, stage, model, key, cause, outcome, kind, status, latency, *tokens, cost = row
    return Attempt(
        at, stage, model, key.hex(), cause, outcome, kind, status, latency, Usage(*tokens), cost
    )


def from_response(response: Response) -> tuple[Any, ...]:
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


def to_response(key: bytes, stage: str, failure: str | None, body: str, whole_by: int) -> Response:
    """
    Raises:
        ValueError, TypeError, KeyError: `body` is not what `from_response` made.
    """
    if failure is not None:
        return Response(key.hex(), stage, failure=failure, message=body)
    fields: Mapping[str, Any] = json.loads(body)
    completion = Completion(**{**fields, "usage": Usage(**fields["usage"])})
    return Response(key.hex(), stage, completion, whole_by=whole_by)


def to_sums(row: Sequence[Any]) -> Sums:
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
