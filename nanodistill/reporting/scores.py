"""How each model did: scores with their intervals, speed and cost, and several students."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanodistill.evaluation.contenders import BASE, SHOWN_AS, STUDENT, TEACHER
from nanodistill.evaluation.statistics import Estimate
from nanodistill.evaluation.verdict import in_words
from nanodistill.reporting.judged import Evaluation, Figures, names_of
from nanodistill.reporting.sheets import Cell, Sheet, dollars, number, percent, share, text
from nanodistill.status import size

CUT_OFF_WORTH_SAYING = 0.1


@dataclass(frozen=True)
class Whisker:
    """A score with its 95% interval, to be drawn from 0 to 1."""

    name: str
    model: str
    shown: str
    interval: str
    score: Estimate


def whiskers(found: Evaluation) -> list[Whisker]:
    return [
        Whisker(SHOWN_AS[name], name, percent(one.score.value), _between(one.score), one.score)
        for name, one in found.models.items()
    ]


def student_whiskers(evaluations: Sequence[Evaluation]) -> list[Whisker]:
    """Several students on the same rows, the best first."""
    named = zip(names_of(evaluations), evaluations, strict=True)
    ranked = sorted(named, key=lambda item: -item[1].student_score)
    return [
        Whisker(name, STUDENT, percent(score.value), _between(score), score)
        for name, score in ((name, one.models[STUDENT].score) for name, one in ranked)
    ]


def further_sheet(found: Evaluation) -> Sheet:
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
    return Sheet("Speed, cost and form of the answers", columns, rows, _note(found))


def students_sheet(evaluations: Iterable[Evaluation]) -> Sheet:
    """Every student that was judged in this run, on whatever rows."""
    ranked = sorted(evaluations, key=lambda one: -one.student_score)
    rows = tuple(
        (
            text(name),
            share(one.student_score),
            text(_between(one.models[STUDENT].score)),
            text(percent(one.models[BASE].score.value)),
            text(in_words(one.paired)),
            text(f"{one.n} {one.split} rows of {one.dataset}, {one.measure}"),
        )
        for name, one in zip(names_of(ranked), ranked, strict=True)
    )
    columns = ("student", "score", "95%", "its base", "against its base", "judged on")
    return Sheet("All students judged in this run", columns, rows)


def _row(name: str, one: Figures) -> tuple[Cell, ...]:
    speed = one.speed
    return (
        text(SHOWN_AS[name]),
        share(one.exact.value, name),
        number(one.unreadable),
        number(one.cut_off),
        number(speed["answers_per_second"], ".2f") if speed else Cell("–", "number"),
        number(speed["tokens_per_second"], ".0f") if speed else Cell("–", "number"),
        Cell(size(speed["peak_memory"]) if speed else "–", "number"),
        Cell(dollars(one.usd_per_1000) if name == TEACHER else "–", "number"),
    )


def _note(found: Evaluation) -> str:
    said = (
        "All models were asked with the same messages, decoded greedily, with at most "
        f"{found.max_new_tokens} new tokens. An answer that could not be read counts as wrong."
    )
    for name, one in found.models.items():
        if one.cut_off > CUT_OFF_WORTH_SAYING * found.n:
            said += (
                f" {one.cut_off} of {found.n} answers of the {SHOWN_AS[name]} reached the limit."
            )
    return said


def _between(score: Estimate) -> str:
    return f"{percent(score.low)} to {percent(score.high)}"
