"""Tables as the page shows them.

A cell with a `share` has a bar beside its text. An unknown figure is shown as
"unknown", never as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanodistill.formatting import percent

UNKNOWN = "unknown"


@dataclass(frozen=True)
class TableCell:
    """One cell. `share` (0 to 1) is drawn as a bar, in the colour of `model`."""

    text: str
    kind: Literal["text", "number", "code"] = "text"
    share: float | None = None
    model: str = ""


TableRows = tuple[tuple[TableCell, ...], ...]
DASH = TableCell("–", "number")


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row is its heading."""

    caption: str
    columns: tuple[str, ...]
    rows: TableRows
    note: str = ""


def text(value: object) -> TableCell:
    return TableCell(str(value))


def code(value: object) -> TableCell:
    return TableCell(str(value), "code")


def number(value: float | None, spec: str = ",") -> TableCell:
    return TableCell(UNKNOWN if value is None else format(value, spec), "number")


def bar(value: float, total: float) -> TableCell:
    """A count, with its share of `total` as a bar."""
    return TableCell(f"{value:,}", "number", value / total if total else 0.0)


def share(value: float | None, model: str = "") -> TableCell:
    return DASH if value is None else TableCell(percent(value), "number", value, model)


def count_table(
    caption: str, columns: tuple[str, str], counts: Mapping[str, int], total: int | None = None
) -> Table:
    """Counts by name, the largest first, with their shares of `total` (default: their sum)."""
    total = sum(counts.values()) if total is None else total
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return Table(caption, columns, tuple((text(name), bar(n, total)) for name, n in ordered))


def fact_table(caption: str, pairs: Iterable[tuple[str, TableCell | None]]) -> Table:
    """Names and values, without those that are None."""
    rows = tuple((text(name), cell) for name, cell in pairs if cell is not None)
    return Table(caption, (), rows)


def without_folder(name: str) -> str:
    """A model's or file's name without the folders of this machine."""
    return f"…/{Path(name).name}" if Path(name).is_absolute() else name
