"""Tables of figures as the page shows them, and figures in words.

A cell may have a `share`, which is drawn as a bar beside its text. What is not known is said
to be unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from nanodistill.evaluation.results import points

UNKNOWN = "unknown"


@dataclass(frozen=True)
class TableCell:
    """What stands in one place of a table. `share` (0..1) is a bar, in the colour of `model`."""

    text: str
    kind: Literal["text", "number", "code"] = "text"
    share: float | None = None
    model: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row names it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    note: str = ""


def text(value: object) -> TableCell:
    return TableCell(str(value))


def code(value: object) -> TableCell:
    return TableCell(str(value), "code")


def number(value: float | None, form: str = ",") -> TableCell:
    return TableCell(UNKNOWN if value is None else format(value, form), "number")


def bar(value: float, of: float) -> TableCell:
    """A count, with its part of `of` as a bar."""
    return TableCell(f"{value:,}", "number", value / of if of else 0.0)


def share(value: float | None, model: str = "") -> TableCell:
    return (
        TableCell("–", "number")
        if value is None
        else TableCell(percent(value), "number", value, model)
    )


def counted(
    caption: str, what: tuple[str, str], counts: Mapping[str, int], of: int | None = None
) -> Table:
    """Counts by name, the largest first, each as a part of `of` (their sum)."""
    whole = sum(counts.values()) if of is None else of
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return Table(caption, what, tuple((text(name), bar(n, whole)) for name, n in ordered))


def facts(caption: str, pairs: Iterable[tuple[str, TableCell | None]]) -> Table:
    """Names and values, without those that are None."""
    rows = tuple((text(name), cell) for name, cell in pairs if cell is not None)
    return Table(caption, (), rows)


def percent(value: float) -> str:
    return f"{points(value)}%"


def dollars(value: float | None) -> str:
    """As in "$12.50", "$0.25", "$0.0031", "$0" or "unknown"."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "$0"
    return f"${value:,.2f}" if value >= 0.1 else f"${value:.4f}"


def plural(n: int, one: str) -> str:
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def in_minutes(seconds: float) -> str:
    """As in "48 s", "12 min" or "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
