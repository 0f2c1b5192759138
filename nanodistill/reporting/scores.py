"""The verdict in a sentence: what a person should take away, as strong as the figures.

How each model did: scores with their intervals, speed and cost, and several students.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nanodistill.evaluation.eval_models import BASE, DISPLAY_NAMES, STUDENT, TEACHER
from nanodistill.evaluation.results import describe_comparison, points, probability
from nanodistill.reporting.evaluation_data import Evaluation, Figures, names_of
from nanodistill.reporting.report_tables import (
    Table,
    TableCell,
    dollars,
    number,
    percent,
    plural,
    share,
    text,
)
from nanodistill.stats import Paired, ScoreEstimate
from nanodistill.status import size

Severity = Literal["ahead", "behind", "level", "open"]


@dataclass(frozen=True)
class Headline:
    """`verdict` is the sentence, `evidence` what it rests on, `further` more comparisons."""

    verdict: str
    evidence: str
    tone: Severity
    further: tuple[str, ...] = ()


def judged_headline(found: Evaluation) -> Headline:
    return Headline(
        verdict=_verdict(found.paired),
        evidence=_evidence(found),
        tone=_severity(found.paired),
        further=tuple(_further(found)),
    )


def _severity(paired: Paired) -> Severity:
    if not paired.is_significant:
        return "level"
    return "ahead" if paired.diff > 0 else "behind"


def _verdict(paired: Paired) -> str:
    if not paired.is_significant:
        return (
            f"On {plural(paired.n, 'row')}, the student cannot be told from its base: "
            "any difference may be chance."
        )
    by = points(abs(paired.diff))
    where = "ahead of" if paired.diff > 0 else "behind"
    return f"The student is {where} its base by {by} point{'' if by == '1' else 's'}."


def _evidence(found: Evaluation) -> str:
    paired = found.paired
    student, base = (percent(found.models[name].score.value) for name in (STUDENT, BASE))
    rows = f"{found.n:,} {found.split} row{'' if found.n == 1 else 's'}"
    return (
        f"{student} {found.measure} against {base}, on {rows}. "
        f"95% interval of the difference: {points(paired.low)} to {points(paired.high)} points; "
        f"{probability(paired.p)}."
    )


def _further(found: Evaluation) -> Iterator[str]:
    for name, paired in found.against.items():
        if name != BASE:
            yield f"Against the {DISPLAY_NAMES[name]}: {describe_comparison(paired)}."
    if found.split == "valid":
        yield "There is no test split: these are validation rows, which training was steered by."


def unjudged_headline(*, training: str | None, rows: int | None, answers: int) -> Headline:
    """What is there before an evaluation, and the command that comes next.

    Args:
        training: "ended" or "unfinished", None where nothing was trained.
        rows: kept rows of the dataset, None where there is none.
        answers: of the teacher, so far.
    """
    if training == "ended":
        return _open("A student has been trained, and not judged yet.", "eval")
    if training == "unfinished":
        return _open("A student is being trained; training has not ended.", "train")
    if rows is not None:
        return _open(
            f"A dataset of {plural(rows, 'row')} is ready; nothing is trained yet.", "train"
        )
    return _open(
        f"The teacher has given {plural(answers, 'answer')}; there is no dataset yet.", "synth"
    )


def _open(said: str, following: str) -> Headline:
    return Headline(said, f"Next: nanodistill {following} RUN.toml", "open")


CUT_OFF_WORTH_SAYING = 0.1


@dataclass(frozen=True)
class ScoreInterval:
    """A score with its 95% interval, to be drawn from 0 to 1."""

    name: str
    model: str
    shown: str
    interval: str
    score: ScoreEstimate


def score_intervals(found: Evaluation) -> list[ScoreInterval]:
    return [
        ScoreInterval(
            DISPLAY_NAMES[name], name, percent(one.score.value), _between(one.score), one.score
        )
        for name, one in found.models.items()
    ]


def student_intervals(evaluations: Sequence[Evaluation]) -> list[ScoreInterval]:
    """Several students on the same rows, the best first."""
    named = zip(names_of(evaluations), evaluations, strict=True)
    ranked = sorted(named, key=lambda item: -item[1].student_score)
    return [
        ScoreInterval(name, STUDENT, percent(score.value), _between(score), score)
        for name, score in ((name, one.models[STUDENT].score) for name, one in ranked)
    ]


def further_sheet(found: Evaluation) -> Table:
    """What else was measured, a row for each model."""
    columns = (
        "model",
        "exact match",
        "unreadable",
        "cut off",
        "answers per second",
        "tokens per second",
        "peak memory",
        "cost of 1,000 calls",
    )
    rows = tuple(_row(name, one) for name, one in found.models.items())
    return Table("Speed, cost and form of the answers", columns, rows, _note(found))


def students_sheet(evaluations: Iterable[Evaluation]) -> Table:
    """Every student that was judged in this run, on whatever rows."""
    ranked = sorted(evaluations, key=lambda one: -one.student_score)
    rows = tuple(
        (
            text(name),
            share(one.student_score),
            text(_between(one.models[STUDENT].score)),
            text(percent(one.models[BASE].score.value)),
            text(describe_comparison(one.paired)),
            text(f"{one.n} {one.split} rows of {one.dataset}, {one.measure}"),
        )
        for name, one in zip(names_of(ranked), ranked, strict=True)
    )
    columns = ("student", "score", "95%", "its base", "against its base", "judged on")
    return Table("All students judged in this run", columns, rows)


def _row(name: str, one: Figures) -> tuple[TableCell, ...]:
    speed = one.speed
    return (
        text(DISPLAY_NAMES[name]),
        share(one.exact.value, name),
        number(one.unreadable),
        number(one.cut_off),
        number(speed["answers_per_second"], ".2f") if speed else TableCell("–", "number"),
        number(speed["tokens_per_second"], ".0f") if speed else TableCell("–", "number"),
        TableCell(size(speed["peak_memory"]) if speed else "–", "number"),
        TableCell(dollars(one.usd_per_1000) if name == TEACHER else "–", "number"),
    )


def _note(found: Evaluation) -> str:
    said = (
        "All models were asked with the same messages, decoded greedily, with at most "
        f"{found.max_new_tokens} new tokens. An answer that could not be read counts as wrong."
    )
    for name, one in found.models.items():
        if one.cut_off > CUT_OFF_WORTH_SAYING * found.n:
            shown = DISPLAY_NAMES[name]
            said += f" {one.cut_off} of {found.n} answers of the {shown} reached the limit."
    return said


def _between(score: ScoreEstimate) -> str:
    return f"{percent(score.low)} to {percent(score.high)}"
