"""What answer is wanted: free text, any JSON object, or JSON of a schema.

The schema is put to the model as a grammar: only tokens are drawn that lead to
an answer of it, with thinking before it where the format has thinking. What the
grammar library can't express is left out of the grammar and found by checking
the answer, which is drawn again a few times; a schema is honoured or refused,
never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import regex

from nanodistill.serve.splitting import Marks, marks_of
from nanodistill.thinking import FORMATS, thinks

if TYPE_CHECKING:
    from nanodistill.thinking import Format

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
ON_ONE_LINE: Mapping[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ",[ ]?",
    "key_separator": ":[ ]?",
}
"""JSON as datasets hold it: on one line, with or without single spaces. A small model that may
write more white space than that writes little else."""


LARGEST = 100_000
PATTERN_SECONDS = 1.0


class BadSchema(ValueError):
    """A schema that is none, or that refers to something outside itself."""


@dataclass(frozen=True)
class Grammar:
    """A grammar for llguidance. `complete` means that what it lets through needs no check."""

    text: str
    complete: bool


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises BadSchema."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        if len(json.dumps(schema)) > LARGEST:
            raise BadSchema(f"the schema has more than {LARGEST} characters")
        Draft202012Validator.check_schema(schema)
        references = _references(schema)
    except SchemaError as wrong:
        raise BadSchema(f"the schema is no JSON schema: {wrong.message}") from wrong
    except RecursionError:
        raise BadSchema("the schema is nested too deeply") from None
    for reference in references:
        if not reference.startswith("#"):
            raise BadSchema(f"the schema refers to {reference}, and nothing outside it is fetched")


def problem(content: str, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer, None if it is of the schema."""
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    try:
        value = json.loads(content)
    except ValueError as broken:
        return f"it is not JSON: {broken}"
    nothing_fetched: Any = Registry()
    bounded: Any = validators.extend(
        Draft202012Validator, {"pattern": _pattern, "patternProperties": _pattern_properties}
    )
    try:
        found = next(bounded(schema, registry=nothing_fetched).iter_errors(value), None)
    except RecursionError:
        return "its schema refers to itself without end"
    except (TimeoutError, regex.error) as unusable:
        return f"a pattern of the schema can't be looked for: {unusable}"
    return None if found is None else f"{found.json_path}: {found.message}"


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    """`pattern`, in bounded time: a client's expression may take for ever on a short text."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _occurs(pattern, instance):
        yield ValidationError(f"{instance!r:.200} does not match {pattern!r:.200}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any
) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for pattern, schema in patterns.items():
        for name, held in instance.items():
            if _occurs(pattern, name):
                yield from validator.descend(held, schema, path=name, schema_path=pattern)


def _occurs(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=PATTERN_SECONDS, concurrent=True) is not None


def grammar_for(schema: Mapping[str, Any], form: Format, *, lenient: bool) -> str | None:
    """The grammar of an answer in `form` with content of `schema`; None where a format's text
    can't be told by a grammar.

    `lenient` leaves out of the grammar what the library can't express.
    """
    if form is FORMATS["json"]:
        return f"start: answer\n{_answer(_in_json_form(schema), lenient)}"
    if not thinks(form):
        return f"start: answer\n{_answer(schema, lenient)}"
    marks = marks_of(form)
    if marks is None or not marks.can_be_streamed:
        return None
    return f"start: thought answer | answer\n{_thought(marks)}{_answer(schema, lenient)}"


def _thought(marks: Marks) -> str:
    """Thinking ends with the first mark that ends it."""
    mark = marks.between.strip()
    lead, _, tail = marks.between.partition(mark)
    return (
        f"thought: {json.dumps(marks.before)} inside {json.dumps(tail)}\n"
        f"inside[suffix={json.dumps(lead + mark)}]: /(?s:.*)/\n"
    ).replace(' ""\n', "\n")


def _answer(schema: Mapping[str, Any], lenient: bool) -> str:
    told = {**ON_ONE_LINE, "lenient": lenient}
    return f"answer: %json {json.dumps({**schema, 'x-guidance': told})}\n"


def _in_json_form(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the `json` thinking format around an answer of `schema`. What the schema
    refers to moves up with it, because references begin at the root."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, "answer": dict(schema)},
        "required": ["answer"],
        "additionalProperties": False,
        **shared,
    }


def _references(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [held for key, held in value.items() if key == "$ref" and isinstance(held, str)]
        return own + [found for held in value.values() for found in _references(held)]
    if isinstance(value, list):
        return [found for held in value for found in _references(held)]
    return []
