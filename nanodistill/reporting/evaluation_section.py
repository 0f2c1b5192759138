"""The evaluation in the report: the verdict, the scores, and what each model gets wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanodistill.evaluation.baselines import linear_verdict
from nanodistill.evaluation.eval_models import BASE, DISPLAY_NAMES, LINEAR, STUDENT, TEACHER
from nanodistill.evaluation.results import SavedScore, describe_comparison, probability
from nanodistill.formatting import dollars, percent, plural, points
from nanodistill.metrics.row_metrics import OTHER_LABEL, UNREADABLE
from nanodistill.reporting.evaluation_data import Evaluation, names_of
from nanodistill.reporting.report_tables import DASH, Table, TableCell, number, share, text
from nanodistill.stats import ScoreEstimate
from nanodistill.status import size

Severity = Literal["ahead", "behind", "level", "open"]

# Share of answers at the length limit from which a note says so: fewer hardly move the score.
CUT_OFF_NOTED = 0.1
# A wider matrix does not fit a screen; the most frequent confusions are listed instead.
MATRIX_LABELS = 16
CONFUSIONS_LISTED = 20
SHADES = 8  # as many as style.css has


@dataclass(frozen=True)
class Headline:
    """The verdict in a sentence, the figures behind it, and the other comparisons."""

    verdict: str
    evidence: str
    severity: Severity
    comparisons: tuple[str, ...] = ()


def evaluation_headline(evaluation: Evaluation) -> Headline:
    saved, paired = evaluation.results, evaluation.paired
    rows = plural(saved.n, f"{saved.on} row")
    severity: Severity = "level"
    if not paired.is_significant:
        verdict = (
            f"On {plural(paired.n, 'row')}, the student and its base are not distinguishable: "
            "any difference may be chance."
        )
    else:
        severity = "ahead" if paired.diff > 0 else "behind"
        by = points(abs(paired.diff))
        where = "ahead of" if paired.diff > 0 else "behind"
        verdict = f"The student is {where} its base by {by} point{'' if by == '1' else 's'}."
    student, base = (percent(saved.models[name].value) for name in (STUDENT, BASE))
    comparisons = [
        f"Against the {DISPLAY_NAMES[name]}: {describe_comparison(other)}."
        for name, other in saved.against.items()
        if name != BASE
    ]
    if LINEAR in saved.against and (advice := linear_verdict(saved.against[LINEAR])):
        comparisons.append(advice)
    if saved.on == "valid":
        comparisons.append(
            "There is no test split: these are validation rows, which also steered training."
        )
    return Headline(
        verdict,
        f"{student} {saved.metric.measure} against {base}, on {rows}. "
        f"95% interval of the difference: {points(paired.low)} to {points(paired.high)} points; "
        f"{probability(paired.p)}.",
        severity,
        tuple(comparisons),
    )


def progress_headline(*, training: str | None, rows: int | None, answers: int) -> Headline:
    """What a run without an evaluation has so far, and the next command.

    Args:
        training: "ended" or "unfinished", None if nothing was trained.
        rows: kept rows of the dataset, None without one.
        answers: of the teacher, so far.
    """
    if training == "ended":
        state, command = "The student is trained but not yet evaluated.", "eval"
    elif training == "unfinished":
        state, command = "Training is unfinished.", "train"
    elif rows is not None:
        state = f"The dataset has {plural(rows, 'row')}; no student is trained yet."
        command = "train"
    else:
        state = f"The teacher has given {plural(answers, 'answer')}; there is no dataset yet."
        command = "synth"
    return Headline(state, f"Next: nanodistill {command} RUN.toml", "open")


@dataclass(frozen=True)
class ScoreInterval:
    """A score with its 95% interval, to be drawn from 0 to 1."""

    name: str
    model: str
    value: str
    interval: str
    score: ScoreEstimate


@dataclass(frozen=True)
class ConfusionCell:
    """A count in the matrix; `shade` is 0 (none of the row) to `SHADES` (all of it)."""

    count: int
    shade: int
    is_right: bool
    gold: str
    predicted: str


@dataclass(frozen=True)
class Confusion:
    """Gold answers in rows, predictions in columns."""

    model: str
    display_name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[ConfusionCell, ...]], ...]


@dataclass(frozen=True)
class Scores:
    """How the models did, and what they get wrong."""

    measure: str
    rows: str
    models: tuple[ScoreInterval, ...]
    students: tuple[ScoreInterval, ...]
    tables: tuple[Table, ...]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Table, ...]


def scores_section(
    reported: Evaluation, evaluations: Sequence[Evaluation], same_rows: Sequence[Evaluation]
) -> Scores:
    """The section about `reported`, of all `evaluations` and those on the `same_rows`."""
    saved = reported.results
    students = zip(names_of(same_rows), same_rows, strict=True)
    ranked = sorted(students, key=lambda item: -item[1].student_score.value)
    mistakes = [_labels(reported), _fields(reported), _most_confused(reported), _others(reported)]
    return Scores(
        measure=saved.metric.measure,
        rows=f"{saved.n:,} {saved.on} rows",
        models=tuple(
            _interval(DISPLAY_NAMES[name], name, model.score)
            for name, model in saved.models.items()
        ),
        students=tuple(_interval(name, STUDENT, one.student_score) for name, one in ranked)
        if len(same_rows) > 1
        else (),
        tables=(
            *([_students(evaluations)] if len(evaluations) > 1 else []),
            _speed_and_cost(reported),
        ),
        confusions=tuple(_confusions(reported)),
        mistakes=tuple(table for table in mistakes if table is not None),
    )


def _interval(name: str, model: str, score: ScoreEstimate) -> ScoreInterval:
    return ScoreInterval(name, model, percent(score.value), between(score), score)


def between(score: ScoreEstimate) -> str:
    """The interval, as in "31% to 59%"."""
    return f"{percent(score.low)} to {percent(score.high)}"


def _students(evaluations: Iterable[Evaluation]) -> Table:
    """Every student that was evaluated in this run, on whatever rows."""
    ranked = sorted(evaluations, key=lambda one: -one.student_score.value)
    rows = []
    for name, one in zip(names_of(ranked), ranked, strict=True):
        saved = one.results
        rows.append(
            (
                text(name),
                share(one.student_score.value),
                text(between(one.student_score)),
                text(percent(saved.models[BASE].value)),
                text(describe_comparison(one.paired)),
                text(f"{saved.n} {saved.on} rows of {saved.dataset.version}, "
                     f"{saved.metric.measure}"),
            )
        )  # fmt: skip
    columns = ("student", "score", "95%", "its base", "against its base", "evaluated on")
    return Table("All students evaluated in this run", columns, tuple(rows))


def _speed_and_cost(evaluation: Evaluation) -> Table:
    saved = evaluation.results
    columns = (
        "model", "exact match", "unreadable", "cut off", "answers per second",
        "tokens per second", "peak memory", "cost of 1,000 calls",
    )  # fmt: skip
    rows = tuple(_speed_row(name, model) for name, model in saved.models.items())
    note = (
        "All models got the same messages and decoded greedily, with at most "
        f"{saved.decoding.max_new_tokens} new tokens. An unreadable answer counts as wrong."
    )
    for name, model in saved.models.items():
        if model.cut_off > CUT_OFF_NOTED * saved.n:
            note += (
                f" {model.cut_off} of {saved.n} answers of the {DISPLAY_NAMES[name]} "
                "reached the limit."
            )
    return Table("Speed, cost and form of the answers", columns, rows, note)


def _speed_row(name: str, model: SavedScore) -> tuple[TableCell, ...]:
    speed = model.speed
    return (
        text(DISPLAY_NAMES[name]),
        share(model.exact.value, name),
        number(model.unreadable),
        number(model.cut_off),
        number(speed["answers_per_second"], ".2f") if speed else DASH,
        number(speed["tokens_per_second"], ".0f") if speed else DASH,
        TableCell(size(speed["peak_memory"]), "number") if speed else DASH,
        TableCell(dollars(model.usd_per_1000), "number") if name == TEACHER else DASH,
    )


def _confusions(evaluation: Evaluation) -> Iterator[Confusion]:
    """The student's matrix, then the others'; none if there are too many labels."""
    matrices = _details(evaluation, "confusion")
    for name in sorted(matrices, key=lambda name: name != STUDENT):
        matrix = matrices[name]
        if len(matrix["rows"]) > MATRIX_LABELS:
            continue
        # Columns of outputs outside the labels are shown only if there are any.
        shown = [
            (index, column)
            for index, column in enumerate(matrix["columns"])
            if column not in (OTHER_LABEL, UNREADABLE)
            or any(row[index] for row in matrix["rows"].values())
        ]
        rows = []
        for gold, counts in matrix["rows"].items():
            total = sum(counts)
            cells = tuple(
                ConfusionCell(
                    counts[index],
                    -(-SHADES * counts[index] // total) if total else 0,
                    gold == column,
                    gold,
                    column,
                )
                for index, column in shown
            )
            rows.append((gold, cells))
        columns = tuple(column for _, column in shown)
        yield Confusion(name, DISPLAY_NAMES[name], columns, tuple(rows))


def _labels(evaluation: Evaluation) -> Table | None:
    """For each label, the share of its rows that each model got right, and its F1."""
    by_model = _details(evaluation, "labels")
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
    details = [evaluation.results.models[model].details for model in by_model]
    mean = [number(one["macro_f1"], ".2f") for one in details]
    blank = [TableCell("", "number") for _ in (None, *by_model)]
    rows.append((text("mean of the labels"), *blank, *mean))
    return Table("Accuracy and F1 by label", columns, tuple(rows))


def _fields(evaluation: Evaluation) -> Table | None:
    by_model = _details(evaluation, "fields")
    if not by_model:
        return None
    rows = tuple(
        (
            TableCell(path or "(the whole answer)", "code"),
            *(
                share(fields[path]["accuracy"] if path in fields else None, model)
                for model, fields in by_model.items()
            ),
        )
        for path in sorted({path for fields in by_model.values() for path in fields})
    )
    columns = ("field", *(DISPLAY_NAMES[model] for model in by_model))
    return Table("Accuracy by field", columns, rows, "An invented field counts as wrong.")


def _most_confused(evaluation: Evaluation) -> Table | None:
    """In place of a matrix with too many labels."""
    matrix = _details(evaluation, "confusion").get(STUDENT)
    if matrix is None or len(matrix["rows"]) <= MATRIX_LABELS:
        return None
    wrong = [
        (n, gold, predicted)
        for gold, counts in matrix["rows"].items()
        for predicted, n in zip(matrix["columns"], counts, strict=True)
        if n and predicted != gold
    ]
    most = sorted(wrong, key=lambda one: -one[0])[:CONFUSIONS_LISTED]
    rows = tuple((text(gold), text(predicted), number(n)) for n, gold, predicted in most)
    columns = ("gold answer", "student's answer", "rows")
    return Table("The student's most frequent confusions", columns, rows)


def _others(evaluation: Evaluation) -> Table | None:
    """The metric's other figures that are one number; the mean F1 is with the labels."""
    details = [model.details for model in evaluation.results.models.values()]
    names = dict.fromkeys(
        name
        for one in details
        for name, value in one.items()
        if name != "macro_f1" and (value is None or isinstance(value, int | float))
    )
    if not names:
        return None
    rows = tuple(
        (
            text(name.replace("_", " ")),
            *(number(one[name], ".3g") if name in one else DASH for one in details),
        )
        for name in names
    )
    columns = ("figure", *(DISPLAY_NAMES[model] for model in evaluation.results.models))
    return Table("Further figures of the metric", columns, rows)


def _details(evaluation: Evaluation, name: str) -> dict[str, Mapping[str, Any]]:
    """A figure of the metric by model, for the models that have it."""
    models = evaluation.results.models
    return {model: one.details[name] for model, one in models.items() if name in one.details}
