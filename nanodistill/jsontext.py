"""JSON in text, as models write it. Every reader of such text goes through here.

`loads` reads text that is JSON and nothing else. `find_values` looks for JSON inside prose, code
fences and leftover thoughts, the likeliest value first. Neither raises anything but `NotJsonError`,
whatever the text: an answer that was paid for may be nonsense, and nonsense must not end a run.

A value that comes out is safe for everything behind it (jsonschema, pydantic, SQLite, parquet):

- no NaN or infinity, which are no JSON and compare with nothing;
- no nesting deeper than `MAX_DEPTH`, because every consumer recurses;
- no key with two different values, because the last one would win in silence;
- no half of a surrogate pair, which no UTF-8 file can hold: it becomes U+FFFD.

Line breaks inside strings, comments and trailing commas are accepted: models write them, and what
is meant is certain. Nothing else is repaired.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

MAX_DEPTH = 100
"""Deeper JSON is refused. Real answers stay below 20; Python's readers give up near 1,000."""

MAX_FAILED_STARTS = 200
"""How many brackets that open no JSON are tried. Each costs a pass over the rest of the text."""

MAX_DIGITS = 300

THOUGHT_END = "</think>"
FENCED = re.compile(r"```(?:json[c5]?)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
OPENING = re.compile(r"[\[{]")
SURROGATES = re.compile("[\ud800-\udfff]")
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
STRING_OR_CLUTTER = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|,(?=\s*[\]}])', re.DOTALL)


class NotJsonError(ValueError):
    """Text that holds no JSON value that we can use."""


def loads(text: str) -> Any:
    """The value of a text that is JSON and nothing else.

        >>> loads('{"label": "billing",}')
        {'label': 'billing'}

    Raises:
        NotJsonError: it is not.
    """
    try:
        return _checked(text, _DECODER.decode(text))
    except (ValueError, RecursionError):
        relaxed = _without_clutter(text)
    if relaxed == text:
        raise NotJsonError("is not JSON")
    try:
        return _checked(relaxed, _DECODER.decode(relaxed))
    except (ValueError, RecursionError):
        raise NotJsonError("is not JSON") from None


def find_values(text: str) -> Iterator[Any]:
    """JSON values in `text`: all of it, else those in code fences, then those within prose.

    Text up to the last `</think>` is left out.
    """
    yield from _value_of(text.strip())
    said = text.rpartition(THOUGHT_END)[2].strip()
    if THOUGHT_END in text:
        yield from _value_of(said)
    for block in FENCED.findall(said):
        yield from _value_of(block)
    yield from embedded_values(said)


def find_object(text: str) -> dict[str, Any] | None:
    """The likeliest JSON object in `text`; None without one."""
    return next((value for value in find_values(text) if isinstance(value, dict)), None)


def find_container(text: str) -> dict[str, Any] | list[Any] | None:
    """The likeliest JSON object or list in `text`; None without one."""
    return next((value for value in find_values(text) if isinstance(value, dict | list)), None)


def embedded_values(text: str) -> Iterator[Any]:
    """The objects and lists that stand in `text`, in its order.

    Of a list that breaks off, its whole items come out one by one.
    """
    failed = 0
    found = OPENING.search(text)
    while found and failed < MAX_FAILED_STARTS:
        end = found.end()
        try:
            value, end = _DECODER.raw_decode(text, found.start())
            yield _checked(text, value)
        except (ValueError, RecursionError):
            failed += 1
        found = OPENING.search(text, end)


def replace_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: half of a surrogate pair, which JSON allows, becomes U+FFFD."""
    return SURROGATES.sub("\ufffd", text)


def _value_of(text: str) -> Iterator[Any]:
    try:
        yield loads(text)
    except NotJsonError:
        return


def _checked(text: str, value: Any) -> Any:
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise NotJsonError(f"is nested more than {MAX_DEPTH} deep")
    if ESCAPED_SURROGATE.search(text) or SURROGATES.search(text):
        return _map_strings(value, replace_surrogates)
    return value


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    return value


def _without_clutter(text: str) -> str:
    """`text` without the comments and trailing commas that stand outside its strings."""
    for _ in range(2):  # a comma before a comment trails only once the comment is gone
        text = STRING_OR_CLUTTER.sub(lambda found: found[0] if found[0][0] == '"' else "", text)
    return text


def _no_constant(name: str) -> Any:
    raise NotJsonError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise NotJsonError(f"{digits} is too large a number")
    return number


def _fits_a_float(digits: str) -> int:
    """An integer that every consumer can compare with a fraction; 309 digits overflow a double."""
    if len(digits) > MAX_DIGITS:
        raise NotJsonError("a number has too many digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs) and any(value[key] != item for key, item in pairs):
        raise NotJsonError("a key has two values")
    return value


# `strict=False` allows line breaks and tabs inside strings, which models write in long texts.
_DECODER = json.JSONDecoder(
    strict=False,
    parse_constant=_no_constant,
    parse_float=_finite,
    parse_int=_fits_a_float,
    object_pairs_hook=_unique,
)


@runtime_checkable
class SupportsToList(Protocol):
    """NumPy's scalars and arrays, and tensors."""

    def tolist(self) -> Any: ...


def plain_number(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, for `json.dumps(…, default=plain_number)`.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, SupportsToList):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no JSON value")
