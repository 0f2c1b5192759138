"""The judged rows with every model's answer, as the page browses them.

Columns rather than rows, and equal columns (one base behind several students) once: the data
is the larger part of the file. Very long texts are cut, and say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.errors import CorruptFileError
from nanodistill.evaluation.eval_models import DISPLAY_NAMES
from nanodistill.reporting.evaluation_data import Evaluation, names_of

LONGEST_TEXT = 20_000
MOST_ROWS = 20_000
MOST_LABELS = 60


@dataclass(frozen=True)
class Answers:
    """One model's answers in the order of the rows. `raw` is what could not be read."""

    output: tuple[str | None, ...]
    thinking: tuple[str | None, ...]
    raw: tuple[str | None, ...]
    score: tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A model as one column of the table; `answers` is its place in `Rows.answers`."""

    model: str
    shown_as: str
    answers: int


@dataclass(frozen=True)
class View:
    """One student, and the models beside it."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Rows:
    """`graded` where scores lie between right and wrong. `left_out` rows are not in the file."""

    input: tuple[str, ...]
    gold: tuple[str, ...]
    gold_thinking: tuple[str | None, ...]
    answers: tuple[Answers, ...]
    views: tuple[View, ...]
    labels: tuple[str, ...]
    graded: bool
    left_out: int


def judged_rows(evaluations: Sequence[Evaluation]) -> Rows | None:
    """The rows of evaluations that share them, or None where there are no predictions.

    Raises:
        CorruptFileError: predictions can't be read.
    """
    kept = [one for one in evaluations if one.predictions.exists()]
    if not kept:
        return None
    pool: list[Answers] = []
    views: list[View] = []
    asked: list[dict[str, Any]] = []
    for name, one in zip(names_of(kept), kept, strict=True):
        by_model = _by_model(one)
        asked = asked or next(iter(by_model.values()))
        columns = tuple(
            Column(model, DISPLAY_NAMES[model], _place(pool, _answers(lines[:MOST_ROWS])))
            for model, lines in by_model.items()
        )
        views.append(View(name, columns))
    return _rows(asked, pool, views)


def _rows(asked: Sequence[Mapping[str, Any]], pool: list[Answers], views: list[View]) -> Rows:
    shown = asked[:MOST_ROWS]
    golds = tuple(_cut(line["gold"]) for line in shown)
    labels = tuple(dict.fromkeys(golds))
    return Rows(
        input=tuple(_cut(line["input"]) for line in shown),
        gold=golds,
        gold_thinking=tuple(_cut_or_none(line["gold_thinking"]) for line in shown),
        answers=tuple(pool),
        views=tuple(views),
        labels=labels if _are_labels(labels, len(golds)) else (),
        graded=any(score not in (0, 1) for one in pool for score in one.score),
        left_out=len(asked) - len(shown),
    )


def _are_labels(outputs: Sequence[str], rows: int) -> bool:
    """Whether the gold answers repeat enough to be worth a choice of them."""
    return 1 < len(outputs) <= min(MOST_LABELS, max(rows // 2, 2))


def _by_model(one: Evaluation) -> dict[str, list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        lines = pq.read_table(one.predictions).to_pylist()
    except (pa.ArrowException, OSError) as broken:
        raise CorruptFileError(
            f"{one.predictions} can't be read: {broken}.",
            next_step="Delete it, then: nanodistill eval RUN.toml (answers are kept).",
        ) from broken
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in one.models}
    for line in lines:
        found[line["model"]].append(line)
    return found


def _answers(lines: Iterable[Mapping[str, Any]]) -> Answers:
    lines = list(lines)
    return Answers(
        output=tuple(_cut_or_none(line["output"]) for line in lines),
        thinking=tuple(_cut_or_none(line["thinking"]) for line in lines),
        raw=tuple(_cut(line["text"]) if line["output"] is None else None for line in lines),
        score=tuple(round(line["score"], 4) for line in lines),
    )


def _place(pool: list[Answers], answers: Answers) -> int:
    if answers not in pool:
        pool.append(answers)
    return pool.index(answers)


def _cut(text: str) -> str:
    more = len(text) - LONGEST_TEXT
    return f"{text[:LONGEST_TEXT]} … ({more:,} more characters)" if more > 0 else text


def _cut_or_none(text: str | None) -> str | None:
    return None if text is None else _cut(text)
