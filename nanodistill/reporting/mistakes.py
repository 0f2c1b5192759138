"""What each model gets wrong, where the metric says: by label, by field, or in other figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill.evaluation.eval_models import DISPLAY_NAMES, STUDENT
from nanodistill.metrics.row_metrics import OTHER_LABEL, UNREADABLE
from nanodistill.reporting.evaluation_data import Evaluation
from nanodistill.reporting.report_tables import Table, TableCell, number, share, text

LABELS_IN_A_MATRIX = 16
CONFUSIONS_LISTED = 20
SHADES = 8


@dataclass(frozen=True)
class ConfusionCell:
    """A count in the matrix; `shade` is 0 (none) to `SHADES` (the whole row)."""

    count: int
    shade: int
    is_right: bool
    gold: str
    said: str


@dataclass(frozen=True)
class Confusion:
    """Gold answers down, what the model said across."""

    model: str
    shown_as: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[ConfusionCell, ...]], ...]


def mistake_sheets(found: Evaluation) -> list[Table]:
    made = [_labels(found), _fields(found), _most_confused(found), _single_figures(found)]
    return [sheet for sheet in made if sheet is not None]


def confusions(found: Evaluation) -> list[Confusion]:
    """The student's matrix, then the others'; none where there are too many labels."""
    with_matrix = {
        name: one.details["confusion"]
        for name, one in found.models.items()
        if "confusion" in one.details
        and len(one.details["confusion"]["rows"]) <= LABELS_IN_A_MATRIX
    }
    ordered = sorted(with_matrix, key=lambda name: name != STUDENT)
    return [_confusion(name, with_matrix[name]) for name in ordered]


def _confusion(name: str, matrix: Mapping[str, Any]) -> Confusion:
    used = [
        place
        for place, column in enumerate(matrix["columns"])
        if column not in (OTHER_LABEL, UNREADABLE)
        or any(row[place] for row in matrix["rows"].values())
    ]
    columns = tuple(matrix["columns"][place] for place in used)
    rows = tuple(
        (
            gold,
            tuple(_square(gold, matrix["columns"][place], row[place], sum(row)) for place in used),
        )
        for gold, row in matrix["rows"].items()
    )
    return Confusion(name, DISPLAY_NAMES[name], columns, rows)


def _square(gold: str, said: str, count: int, whole: int) -> ConfusionCell:
    shade = -(-SHADES * count // whole) if whole else 0
    return ConfusionCell(count, shade, gold == said, gold, said)


def _labels(found: Evaluation) -> Table | None:
    """Of the rows of each label, how many each model got right, and its F1."""
    by_model = _details(found, "labels")
    if not by_model:
        return None
    names = [DISPLAY_NAMES[model] for model in by_model]
    columns = ("label", "rows", *(f"{name}: right" for name in names), *(f"{n}: F1" for n in names))
    labels = next(iter(by_model.values()))
    rows = [
        (
            text(label),
            number(labels[label]["support"]),
            *(share(figures[label]["recall"], model) for model, figures in by_model.items()),
            *(number(figures[label]["f1"], ".2f") for figures in by_model.values()),
        )
        for label in labels
    ]
    mean = [number(found.models[model].details["macro_f1"], ".2f") for model in by_model]
    blank = [TableCell("", "number") for _ in by_model]
    rows.append((text("mean of the labels"), TableCell("", "number"), *blank, *mean))
    return Table("Accuracy and F1 by label", columns, tuple(rows))


def _fields(found: Evaluation) -> Table | None:
    by_model = _details(found, "fields")
    if not by_model:
        return None
    paths = sorted({path for fields in by_model.values() for path in fields})
    rows = tuple(
        (
            TableCell(path or "(the whole answer)", "code"),
            *(share(fields[path]["accuracy"] if path in fields else None, model)
              for model, fields in by_model.items()),
        )
        for path in paths
    )  # fmt: skip
    return Table(
        "Accuracy by field", ("field", *(DISPLAY_NAMES[model] for model in by_model)), rows,
        "A field that a model made up counts as wrong.",
    )  # fmt: skip


def _most_confused(found: Evaluation) -> Table | None:
    """In place of a matrix that nobody could read."""
    details = found.models[STUDENT].details
    if "confusion" not in details or len(details["confusion"]["rows"]) <= LABELS_IN_A_MATRIX:
        return None
    columns = details["confusion"]["columns"]
    wrong = [
        (n, gold, said)
        for gold, row in details["confusion"]["rows"].items()
        for said, n in zip(columns, row, strict=True)
        if n and said != gold
    ]
    ordered = sorted(wrong, key=lambda one: -one[0])[:CONFUSIONS_LISTED]
    rows = tuple((text(gold), text(said), number(n)) for n, gold, said in ordered)
    return Table("What the student confuses most", ("gold answer", "student said", "rows"), rows)


def _single_figures(found: Evaluation) -> Table | None:
    """Other figures of the metric, by their names."""
    names = list(
        dict.fromkeys(name for one in found.models.values() for name in _plain(one.details))
    )
    if not names:
        return None
    rows = tuple(
        (
            text(name.replace("_", " ")),
            *(number(one.details[name], ".3g") if name in one.details else TableCell("–", "number")
              for one in found.models.values()),
        )
        for name in names
    )  # fmt: skip
    columns = ("figure", *(DISPLAY_NAMES[model] for model in found.models))
    return Table("Further figures of the metric", columns, rows)


def _plain(details: Mapping[str, Any]) -> Iterator[str]:
    """Names of the figures that are one number; the mean F1 stands with the labels."""
    for name, value in details.items():
        if name != "macro_f1" and (value is None or isinstance(value, int | float)):
            yield name


def _details(found: Evaluation, name: str) -> dict[str, Mapping[str, Any]]:
    return {model: one.details[name] for model, one in found.models.items() if name in one.details}
