"""The reference tables of docs/CONFIGURATION.md, made from the fields themselves.

    python -m nanodistill.config.reference docs/CONFIGURATION.md

rewrites what stands between the markers `<!-- table: PART -->` and
`<!-- end -->`; a test fails while file and fields differ.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable as CallableType
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nanodistill.config.settings import Range, Settings
from nanodistill.config.synthesis_fields import DataSettings, TaskSettings, TeacherSettings
from nanodistill.config.training_fields import DeliverySettings, MachineSettings, TrainingSettings

PARTS: dict[str, type[Settings]] = {
    "task": TaskSettings,
    "teacher": TeacherSettings,
    "data": DataSettings,
    "training": TrainingSettings,
    "machine": MachineSettings,
    "delivery": DeliverySettings,
}
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CALLED = {"max_memory_gb": "auto, at most 12", "memory_hard_limit_gb": "auto, at most 12"}


def regenerate(document: str) -> str:
    """`document` with every marked table written anew."""
    return TABLE.sub(lambda found: f"{found[1]}\n{table(found[2])}\n{found[3]}", document)


def table(part: str) -> str:
    """The Markdown table of one part's fields."""
    rows = [_row(name, field) for name, field in _fields(part)]
    return "\n".join(
        ["| field | type | default | range | what it does |", "|---|---|---|---|---|", *rows]
    )


def described(part: str) -> list[tuple[str, str]]:
    """Each field of one part: its name, and in a line what it does, its default and its range."""
    return [(name, _line(name, field)) for name, field in _fields(part)]


def _line(name: str, field: FieldInfo) -> str:
    facts = [default_text(name, field), range_text(field)]
    plain = "; ".join(fact.replace("`", "") for fact in facts if fact != "-")
    return f"{field.description}  [{plain}]"


def _fields(part: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in PARTS[part].model_fields.items():
        if part == "machine" or name != "allow_out_of_range":
            yield name, field


def _row(name: str, field: FieldInfo) -> str:
    cells = [f"`{name}`", type_text(field.annotation), default_text(name, field)]
    cells += [range_text(field), field.description or ""]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def default_text(name: str, field: FieldInfo) -> str:
    """The default as a run file would write it."""
    if field.is_required():
        return "required"
    if name in CALLED:
        return CALLED[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default!r}`"


def range_text(field: FieldInfo) -> str:
    """The range of a number, the choices of a literal, else a dash."""
    ranges = [mark for mark in field.metadata if isinstance(mark, Range)]
    if ranges:
        return str(ranges[0])
    choices = _choices(field.annotation)
    return ", ".join(f"`{choice}`" for choice in choices) if choices else "-"


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in members(annotation) for choice in _choices(part))


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, without None; of anything else none."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return tuple(part for part in get_args(annotation) if part is not types.NoneType) * is_union


def type_text(annotation: Any) -> str:
    """A type in a word or two, without None."""
    if several := members(annotation):
        return " or ".join(dict.fromkeys(type_text(part) for part in several))
    origin = get_origin(annotation)
    if origin is Literal:
        return "text"
    named = {list: "list", dict: "table", type: "pydantic model", CallableType: "function"}
    if origin in named:
        return named[origin]
    words = {str: "text", Path: "path", Any: "object", bool: "true or false", int: "whole number"}
    if annotation in words:
        return words[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return "number" if annotation is float else str(annotation)


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(regenerate(document.read_text(encoding="utf-8")), encoding="utf-8")
