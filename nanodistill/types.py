"""The data types that packages share, and the one way to hash them.

All are frozen, and other things depend on what they hold: a request's key decides whether a call is
bought again, a trace's id whether two rows are the same, and `dataset verify` recomputes both. So
every hash is a SHA-256 over canonical JSON behind a tag that names what is hashed and in which
version. Change the meaning, change the tag.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, TypedDict

Role = Literal["system", "user", "assistant"]
Source = Literal["seed", "synthetic", "user"]
Split = Literal["train", "valid", "test"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
ThinkingSource = Literal["teacher", "native", "rationalized", "user"]


class Message(TypedDict):
    """One turn of a chat, as every provider and every chat template takes it."""

    role: Role
    content: str


_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    Raises:
        ValueError: for NaN and infinities, which have no JSON.
    """
    return _CANONICAL.encode(value)


def tagged_hash(tag: str, value: object) -> str:
    """SHA-256 in hex of `tag`, a zero byte and the canonical JSON of `value`."""
    return _hash_of_json(tag, canonical_json(value))


def _hash_of_json(tag: str, text: str) -> str:
    digest = hashlib.sha256(tag.encode())
    digest.update(b"\0")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def canonical_text(text: str) -> str:
    """Text as identity sees it: Unicode NFC, runs of white space as one space, no ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass(frozen=True, slots=True)
class Seed:
    """An example that the user gave. Its output is theirs and is never overwritten."""

    input: str
    output: str
    thinking: str | None = None

    @property
    def id(self) -> str:
        return trace_id("seed", self.input, self.output)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens billed for one call or a sum of calls.

    `cached_tokens` are part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


MOST_SCHEMAS = 32
_schemas: dict[int, tuple[Mapping[str, Any], str]] = {}


def schema_json(schema: Mapping[str, Any] | None) -> str:
    """A schema's canonical JSON: once for each schema object, which is kept alive and not changed.

    A run's requests share a few of them, each as long as a prompt.
    """
    if schema is None:
        return "null"
    known = _schemas.get(id(schema))
    if known is None:
        if len(_schemas) >= MOST_SCHEMAS:
            _schemas.clear()
        known = _schemas[id(schema)] = schema, canonical_json(schema)
    return known[1]


@dataclass(frozen=True)
class Request:
    """One teacher call: all that decides its answer, and the stage that wants it.

    `endpoint` is the provider and, where one is set, its base URL. `params` are
    sampling parameters and whatever else shapes the answer; keys, timeouts,
    headers and retries are not in it. `schema` is the JSON schema of the wanted
    answer; how it is put to the provider (native, tools, in the prompt) is not
    part of the key. `ordinal` tells byte-identical requests of one plan apart.
    """

    stage: str
    endpoint: str
    model: str
    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    ordinal: int = 0

    @cached_property
    def key(self) -> str:
        before_schema = canonical_json(
            {
                "endpoint": self.endpoint,
                "model": self.model,
                "messages": self.messages,
                "params": dict(self.params),
                "ordinal": self.ordinal,
            }
        )
        whole = f'{before_schema[:-1]},"schema":{schema_json(self.schema)}}}'
        return _hash_of_json("nanodistill.request.v1", whole)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a teacher answered, as it arrived: stored before anyone parses it.

    `text` is the answer (tool arguments where the provider was asked through a
    tool); `reasoning` the model's own, where it sent any. `latency` in seconds.
    `cost_usd` is None where no price is known, never 0 for "unknown".
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    reasoning: str | None = None
    model: str | None = None
    latency: float = 0.0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One row on its way into a dataset.

    `cell` is the row's place in the coverage plan ("" for seeds and user rows).
    `confidence` is a measured agreement in 0..1 or None. `request_keys` are the
    teacher calls that it came from, in the order in which they were asked.
    `thinking_from` says whose the thinking is: what the teacher wrote when asked to
    think (`teacher`), its own reasoning that came beside the answer (`native`), an
    explanation of an answer that it was shown (`rationalized`), or the user's (`user`).
    """

    input: str
    output: str
    source: Source
    thinking: str | None = None
    seed_ids: tuple[str, ...] = ()
    cell: str = ""
    confidence: float | None = None
    teacher: str = ""
    request_keys: tuple[str, ...] = ()
    thinking_from: ThinkingSource | None = None

    @property
    def id(self) -> str:
        return trace_id(self.source, self.input, self.output)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A candidate row that did not make it: `reason` is a short stable word, first one wins."""

    trace: Trace
    reason: str
    detail: str = ""


@lru_cache(maxsize=256)
def trace_id(source: Source, input: str, output: str) -> str:
    """A row's identity: a hash of its source, canonical input and canonical output."""
    return tagged_hash(
        "nanodistill.trace.v1", [source, canonical_text(input), canonical_text(output)]
    )
