"""Markdown in which texts of users and models stay texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_CELL = 60


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def cell(text: str) -> str:
    """Text inside a table's cell: one line, short, no mark-up."""
    line = " ".join(text.split())
    return prose(line if len(line) <= LONGEST_CELL else line[: LONGEST_CELL - 1] + "…")


def prose(text: str) -> str:
    """Text of others on one line of Markdown, its mark-up made harmless."""
    return re.sub(r"([\\`*_{}\[\]<>|#!&~$])", r"\\\1", " ".join(text.split()))


def code_text(text: str) -> str:
    """Text between two backticks."""
    return " ".join(text.replace("`", "'").split())


def fenced(text: str, language: str = "text") -> str:
    """Text in a code fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
