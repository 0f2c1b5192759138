"""What is wrong with a value, in the words of a run file rather than pydantic's."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from nanodistill.config.settings import shortened, suggest
from nanodistill.errors import Problem
from nanodistill.text_files import LONE_SURROGATE

WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "callable_type": "a function",
    "dict_type": "a table",
    "finite_number": "a number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "is_subclass_of": "a pydantic model",
    "list_type": "a list",
    "mapping_type": "a table",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "path_type": "a path",
    "string_type": "text",
    "string_unicode": "text",
}


def in_words(error: ErrorDetails) -> str:
    """`is 5, must be a list`: a pydantic error of one value."""
    if error["type"] == "literal_error":
        expected = str(error["ctx"]["expected"])
        known = [name.strip(" '") for name in expected.replace(" or ", ", ").split(",")]
        near = suggest(error["input"], known) if isinstance(error["input"], str) else ""
        return (
            f"is {shown(error['input'])}{near}; must be {expected}"
            if near
            else (f"is {shown(error['input'])}, must be {expected}")
        )
    if error["type"] in WANTED:
        return f"is {shown(error['input'])}, must be {WANTED[error['type']]}"
    if error["type"] == "missing":
        return "is required"
    return error["msg"]


def shown(value: Any) -> str:
    """A value as a run file would have it, cut to a length."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing (null)"
    return shortened(
        str(value) if isinstance(value, datetime.date | datetime.time) else repr(value)
    )


def unusable(value: Any, *where: str) -> Iterator[Problem]:
    """What no field and no table of a configuration can hold, wherever it is in `value`.

    It could be neither hashed nor written down nor sent: numbers that are none, dates, bytes,
    texts with half a character in them.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from unusable(item, *where, str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from unusable(item, *where, str(number))
    elif wrong := _fault(value):
        yield Problem(".".join(where), wrong)


def _fault(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, must be a finite number"
    if isinstance(value, datetime.date | datetime.time):
        return f"is the date or time {value}; put it in quotation marks to have it as text"
    if isinstance(value, bytes | bytearray):
        return "is bytes, must be text"
    if not isinstance(value, str):
        return None
    if "\0" in value:
        return f"holds a NUL character at position {value.index(chr(0)) + 1}"
    if half := LONE_SURROGATE.search(value):
        return f"is no valid text at position {half.start() + 1}: half a character, or no UTF-8"
    return None
