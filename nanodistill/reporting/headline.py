"""The verdict in a sentence: what a person should take away, as strong as the figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nanodistill.evaluation.contenders import BASE, SHOWN_AS, STUDENT
from nanodistill.evaluation.statistics import Paired
from nanodistill.evaluation.verdict import in_words, points, probability
from nanodistill.reporting.judged import Evaluation
from nanodistill.reporting.sheets import percent, plural

Tone = Literal["ahead", "behind", "level", "open"]


@dataclass(frozen=True)
class Headline:
    """`verdict` is the sentence, `evidence` what it rests on, `further` more comparisons."""

    verdict: str
    evidence: str
    tone: Tone
    further: tuple[str, ...] = ()


def judged_headline(found: Evaluation) -> Headline:
    return Headline(
        verdict=_verdict(found.paired),
        evidence=_evidence(found),
        tone=_tone(found.paired),
        further=tuple(_further(found)),
    )


def _tone(paired: Paired) -> Tone:
    if not paired.is_significant:
        return "level"
    return "ahead" if paired.diff > 0 else "behind"


def _verdict(paired: Paired) -> str:
    if not paired.is_significant:
        return (
            f"On {plural(paired.n, 'row')}, the student cannot be told from its base: "
            "the difference may be chance."
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
            yield f"Against the {SHOWN_AS[name]}: {in_words(paired)}."
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
