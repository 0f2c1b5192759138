"""Reading generated examples out of a teacher's answer.

Strategies are tried in order, and the first that finds any row has the answer:
the user's own parser, the parsed structured answer, JSON anywhere in the text
(whole rows of a list that broke off are kept), `## Example` blocks, and
`Input:` / `Output:` lines. Values may run over several lines.

A row that can't be used is not dropped here: it comes back as `Broken`, so that
whoever counts can count it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill import jsontext
from nanodistill.plugins import ResponseParser

LIST_KEYS = ("examples", "inputs", "rows", "items", "data")
BLOCK = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*|\*\*)Example\b[^\n]*$", re.IGNORECASE | re.MULTILINE)
FIELD = re.compile(
    r"^[ \t]*(?:[-*][ \t]+|\d+[.)][ \t]*)?\**(?P<name>input|output)(?:[ \t]*\d+)?\**[ \t]*:"
    r"\**[ \t]?",
    re.IGNORECASE | re.MULTILINE,
)
RULE = re.compile(r"^[ \t]*(?:-{3,}|\*{3,}|`{3,}\w*)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """An input that the teacher wrote, and its output where it gave one."""

    input: str
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that was there and can't be used."""

    text: str
    why: str


Row = Example | Broken


def parse_examples(
    text: str, *, data: Any = None, parser: ResponseParser | None = None
) -> list[Row]:
    """The rows of an answer, in its order.

    Args:
        data: the answer as parsed JSON, where the teacher was asked by schema.
        parser: the user's own, tried first.
    """
    strategies: list[Callable[[], list[Row]]] = [
        lambda: list(from_values(data)),
        lambda: list(from_json(text)),
        lambda: list(from_blocks(text)),
        lambda: list(from_lines(text)),
    ]
    if parser is not None:
        strategies.insert(0, lambda: _from_parser(parser, text))
    for strategy in strategies:
        rows = strategy()
        if any(isinstance(row, Example) for row in rows):
            return rows
    return []


def _from_parser(parser: ResponseParser, text: str) -> list[Row]:
    try:
        return [as_row(value) for value in parser.parse_synthetic_examples(text)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def from_values(data: Any) -> Iterator[Row]:
    """Rows of a parsed JSON answer: a list, an object that holds one, or one row."""
    if isinstance(data, list):
        yield from map(as_row, data)
    elif isinstance(data, Mapping):
        held = next((data[key] for key in LIST_KEYS if isinstance(data.get(key), list)), None)
        if held is not None:
            yield from map(as_row, held)
        elif "input" in data:
            yield as_row(data)


def from_json(text: str) -> Iterator[Row]:
    """Rows of the JSON values in `text`; of a list that does not parse, those of its items."""
    for value in jsontext.embedded_values(text):
        yield from from_values(value)


def from_blocks(text: str) -> Iterator[Row]:
    """Rows under `## Example` headings."""
    heads = list(BLOCK.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=bool(heads)):
        block = text[head.end() : end]
        rows = list(from_lines(block))
        yield rows[0] if rows else Broken(block.strip(), "no Input: in the block")


def from_lines(text: str) -> Iterator[Row]:
    """Rows of `Input:` and `Output:` lines; a value goes on to the next such line."""
    fields = list(FIELD.finditer(text))
    ends = [*(found.start() for found in fields[1:]), len(text)]
    given: str | None = None
    for found, end in zip(fields, ends, strict=bool(fields)):
        value = RULE.sub("", text[found.end() : end]).strip()
        if found["name"].lower() == "input":
            if given is not None:
                yield as_row({"input": given})
            given = value
        elif given is not None:
            yield as_row({"input": given, "output": value})
            given = None
    if given is not None:
        yield as_row({"input": given})


def as_row(value: Any) -> Row:
    """A row of an object with `input`, or of a bare text."""
    if isinstance(value, str):
        return Example(value.strip()) if value.strip() else Broken(value, "empty input")
    if not isinstance(value, Mapping):
        return Broken(_json(value), f"a row that is {type(value).__name__}")
    fields = {str(key).strip().lower(): item for key, item in value.items()}
    given = _as_text(fields.get("input"))
    if not given:
        return Broken(_json(dict(value)), "no input")
    return Example(given, _as_text(fields.get("output")))


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value.strip() if value else value
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
