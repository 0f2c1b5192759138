"""What a completion is worth: an answer, a reason to ask once more, or a lost row.

A request and what follows from it are a chain of three links at most. A truncated answer is asked
once more with a larger limit (where a short answer was wanted, or reasoning used the limit up, with
one that leaves room to reason). Text that is not JSON under the schema gets one repair: a new,
short request with the broken text and what is wrong with it. What comes next depends only on the
requests and their completions, so the same journal gives the same chain, and nothing in it is asked
twice.

Where the schema was put to the teacher in the prompt, models wrap their JSON in fences, prose or
thoughts; `jsontext` finds the value inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nanodistill import jsontext
from nanodistill.config.synthesis_fields import LIMIT_NAMES
from nanodistill.jsontext import replace_surrogates
from nanodistill.types import Completion, Request

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

VALIDATION_VERSION = 2
"""Which rules a remark "whole" in the journal stands for. Change them, count up."""

LARGER = 2
SMALLEST_EXPLICIT_LIMIT = 4096
LABEL_TOKENS = 64
"""The limit that stages set on an answer of a few words. Reasoning may need any number more."""
SHORT_ANSWERS = frozenset({"check", "judge"})
"""Stages that ask for little: what cuts their answers off is the model's reasoning."""
LONGEST_BROKEN_TEXT = 24_000
LONGEST_ERROR = 400
MOST_SCHEMAS = 64

REPAIR_SYSTEM = (
    "You mend JSON. You get a JSON schema, a text that should be JSON under it, and what is "
    "wrong. Answer with the mended JSON and nothing else. Keep the content; leave out what "
    "can't be saved."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `data` is its JSON where the request has a schema.

    `keys` are the calls it took, in the order in which they were asked.
    """

    request: Request
    completion: Completion
    data: Any
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that brought nothing usable. `kind` is a short stable word."""

    request: Request
    kind: str
    message: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a chain with what came back.

    `is_whole`: it has been through `next_step` by these rules before, and was an answer.
    """

    request: Request
    key: str
    completion: Completion
    is_whole: bool = False


class MalformedAnswerError(ValueError):
    """Text that is not JSON under its schema."""


def next_step(chain: Sequence[Exchange]) -> Answer | Failure | Request:
    """What follows from the answered links of a chain: its end, or the request to ask next."""
    first, last = chain[0], chain[-1]
    keys = tuple(link.key for link in chain)
    if last.completion.finish_reason == "content_filter":
        return Failure(first.request, "content_filter", "the provider withheld the answer", keys)
    if last.completion.finish_reason == "length":
        return _after_truncation(chain, keys)
    if first.request.schema is None:
        return Answer(first.request, readable(last.completion), None, keys)
    try:
        data = known_whole(first) if first.is_whole else None
        if data is not None:
            return Answer(first.request, readable(last.completion), data, keys)
        data = parse(last.completion.text, first.request.schema)
    except MalformedAnswerError as problem:
        return _after_malformed(chain, keys, str(problem))
    return Answer(first.request, readable(last.completion), data, keys)


def readable(completion: Completion) -> Completion:
    """A completion whose text every file can hold; the journal keeps it as it arrived."""
    reasoning = completion.reasoning and replace_surrogates(completion.reasoning)
    return replace(completion, text=replace_surrogates(completion.text), reasoning=reasoning)


def is_repair(request: Request) -> bool:
    """Whether `request` was made by `next_step` to mend an answer."""
    return bool(request.messages) and request.messages[0]["content"] == REPAIR_SYSTEM


def _after_truncation(chain: Sequence[Exchange], keys: tuple[str, ...]) -> Failure | Request:
    last = chain[-1]
    if any(link.completion.finish_reason == "length" for link in chain[:-1]):
        used = last.completion.usage.completion_tokens
        message = f"still cut off with a larger limit, after {used} tokens"
        return Failure(chain[0].request, "truncated", message, keys)
    return increase_max_tokens(last.request, last.completion)


def _after_malformed(
    chain: Sequence[Exchange], keys: tuple[str, ...], problem: str
) -> Failure | Request:
    if any(is_repair(link.request) for link in chain):
        return Failure(chain[0].request, "malformed", f"still after a repair: {problem}", keys)
    return repair(chain[-1].request, replace_surrogates(chain[-1].completion.text), problem)


def increase_max_tokens(request: Request, cut: Completion) -> Request:
    """`request` with a larger limit than the one at which `cut` ended."""
    name, limit = _limit_of(request)
    if limit == LABEL_TOKENS and request.stage in SHORT_ANSWERS and _has_reasoned(cut):
        unlimited = {key: value for key, value in request.params.items() if key != name}
        return replace(request, params=unlimited)
    if limit is None:
        limit = max(SMALLEST_EXPLICIT_LIMIT, cut.usage.completion_tokens)
    limit = LARGER * limit
    if request.stage in SHORT_ANSWERS or _has_reasoned(cut):
        limit = max(limit, SMALLEST_EXPLICIT_LIMIT)
    return replace(request, params={**request.params, name: limit})


def with_double_room(request: Request) -> Request | None:
    """What earlier releases asked in place of `increase_max_tokens`, where that is something
    else."""
    name, limit = _limit_of(request)
    if limit is None or limit >= SMALLEST_EXPLICIT_LIMIT:
        return None
    return replace(request, params={**request.params, name: LARGER * limit})


def _limit_of(request: Request) -> tuple[str, int | None]:
    name = next((name for name in LIMIT_NAMES if name in request.params), "max_tokens")
    limit = request.params.get(name)
    return name, None if limit is None else int(limit)


def _has_reasoned(cut: Completion) -> bool:
    """Whether the model's own reasoning took the room for the answer."""
    beside = bool(cut.reasoning or cut.usage.reasoning_tokens)
    return beside or not cut.text.strip() or cut.text.lstrip().startswith("<think")


def repair(request: Request, text: str, problem: str) -> Request:
    """A request that mends `text`."""
    schema = json.dumps(request.schema, ensure_ascii=False)
    content = (
        f"Schema:\n{schema}\n\nWhat is wrong:\n{problem}\n\nText:\n{text[:LONGEST_BROKEN_TEXT]}"
    )
    return replace(
        request,
        messages=(
            {"role": "system", "content": REPAIR_SYSTEM},
            {"role": "user", "content": content},
        ),
    )


def known_whole(link: Exchange) -> dict[str, Any] | list[Any] | None:
    """The JSON of an answer that held before, which need not be validated again."""
    try:
        data = jsontext.loads(link.completion.text)
    except jsontext.NotJsonError:
        return None
    return data if isinstance(data, dict | list) else None


def parse(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value in `text` that holds under `schema`.

    Raises:
        MalformedAnswerError: there is none; says what is wrong with the likeliest one.
    """
    validator = _validator(schema)
    problem: str | None = None
    for value in jsontext.find_values(text):
        error = next(validator.iter_errors(value), None)
        if error is None:
            return value
        problem = problem or f"at {error.json_path}: {error.message}"[:LONGEST_ERROR]
    raise MalformedAnswerError(problem or "there is no complete JSON value in it")


def load_validation() -> None:
    """Import what `parse` needs, which takes a while, before the first answer comes."""
    _validator({})


_compiled: dict[int, tuple[Mapping[str, Any], Validator]] = {}


def _validator(schema: Mapping[str, Any]) -> Validator:
    """The compiled validator of `schema`: once for each schema object, which is kept alive."""
    known = _compiled.get(id(schema))
    if known is None:
        from jsonschema.validators import validator_for

        if len(_compiled) >= MOST_SCHEMAS:
            _compiled.clear()
        known = _compiled[id(schema)] = (schema, validator_for(schema)(schema))
    return known[1]
