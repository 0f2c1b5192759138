"""Answers that were not generated here: a teacher's, bought by the synthesis half.

They come as a list, or as a file of JSON lines with `id` (the row's), `output`
(null where there is none), and, where known, `text`, `thinking` and `cost_usd`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.errors import DataError, Problem

FIELDS = frozenset({"id", "output", "text", "thinking", "cost_usd"})


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """Somebody's answer to the row with this id."""

    id: str
    output: str | None
    text: str | None = None
    thinking: str | None = None
    cost_usd: float | None = None


def given_answers(source: Path | Iterable[GivenAnswer]) -> dict[str, GivenAnswer]:
    """The answers by row id.

    Raises:
        DataError: with every line of the file that is no answer.
    """
    answers = _read(source) if isinstance(source, Path) else source
    return {answer.id: answer for answer in answers}


def usd_per_1000(answers: Iterable[GivenAnswer]) -> float | None:
    """What 1,000 such answers cost; None unless the cost of each is known."""
    costs = [answer.cost_usd for answer in answers]
    known = [cost for cost in costs if cost is not None]
    return 1000 * sum(known) / len(known) if known and len(known) == len(costs) else None


def _read(path: Path) -> list[GivenAnswer]:
    answers: list[GivenAnswer] = []
    problems: list[Problem] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            answers.append(_answer(json.loads(line)))
        except (ValueError, TypeError) as wrong:
            problems.append(Problem(f"{path}:{number}", str(wrong)))
    if problems:
        raise DataError("The file of answers can't be read:", problems)
    return answers


def _answer(value: Mapping[str, Any]) -> GivenAnswer:
    unknown = set(value) - FIELDS
    if unknown:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
    return GivenAnswer(**value)
