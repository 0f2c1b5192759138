"""The seeds: what the teacher says to them blind, and the rows that they become.

Before rows are bought the teacher answers the seeds without seeing their
outputs. How often it gives the user's own answer is its measured accuracy on
this task, with an interval, and with the disagreements to look at.

A seed's output is the user's and stays. Its thinking is the user's where they
gave it, the teacher's where its answer agrees, and else an explanation of the
output, marked as such.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anyio import to_thread

from nanodistill.curation.agreement import compare_answers
from nanodistill.curation.response_model import as_json
from nanodistill.engine.response_validation import Answer
from nanodistill.errors import LowSeedAgreementError, TeacherUnavailableError
from nanodistill.events import Listener, Notice
from nanodistill.stats import wilson
from nanodistill.synthesis.answers import (
    AnswerRequester,
    FailedAnswer,
    ParsedAnswer,
    read_rationale,
)
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.thinking import round_trips
from nanodistill.types import Seed, Trace

LOW = 0.7
"""Agreement under which the notice is a warning: with 10 seeds, 7 is what chance alone gives a
teacher that is right on half (p = 0.17), so below it something is likely to be wrong."""
SHOWN = 5
SHORT = 80


@dataclass(frozen=True)
class SeedAgreement:
    """How the teacher's blind answers relate to the seeds' outputs.

    Attributes:
        agreed: seeds for which it gave the same answer; free text fields may be reworded.
        reworded: seeds whose whole output is free text and came in other words.
        of: seeds that were answered.
        disagreements: a seed, the answer it got, and the fields that differ, if it has fields.
        by_field: verdicts ("same", "reworded", "different") by field, for outputs with a schema.
    """

    agreed: int
    of: int
    disagreements: tuple[tuple[Seed, str, tuple[str, ...]], ...]
    reworded: int = 0
    by_field: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return (self.agreed + self.reworded) / self.of

    def __str__(self) -> str:
        agreed = self.agreed + self.reworded
        share = wilson(agreed, self.of)
        words = f", {self.reworded} of them in other words" if self.reworded else ""
        return (
            f"Asked blind, the teacher agrees on {agreed} of {self.of} seeds{words} "
            f"(95%: {share.low:.0%} to {share.high:.0%})."
        )

    def fields_text(self) -> str:
        """How each field did, a line; empty for outputs without fields."""
        parts = []
        for name, verdicts in self.by_field.items():
            reworded = verdicts.get("reworded", 0)
            right = verdicts.get("same", 0) + reworded
            words = f" ({reworded} reworded)" if reworded else ""
            parts.append(f"{name} {right}/{self.of}{words}")
        return f"  By field: {', '.join(parts)}" if parts else ""

    def differences(self) -> str:
        """Some disagreements, a line each; of structured outputs the differing fields, whole."""
        lines = [self._difference(*each) for each in self.disagreements[:SHOWN]]
        more = len(self.disagreements) - SHOWN
        return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))

    def _difference(self, seed: Seed, answer: str, fields: tuple[str, ...]) -> str:
        if not fields:
            yours, theirs = seed.output[:SHORT], answer[:SHORT]
            return f"  {seed.input[:SHORT]!r}: yours {yours!r}, the teacher's {theirs!r}"
        mine, other = as_json(seed.output), as_json(answer)
        told = "; ".join(
            f"{name}: yours {_json(mine.get(name))}, the teacher's {_json(other.get(name))}"
            for name in fields
        )
        return f"  {seed.input[:SHORT]!r}: {told}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


async def check_seeds(
    task: Task, teacher: TeacherProtocol, requester: AnswerRequester, on_event: Listener
) -> tuple[list[Trace], SeedAgreement | None]:
    """The seeds as rows, and how the teacher did on them, where it was asked to.

    Raises:
        LowSeedAgreementError: under `min_teacher_agreement`.
        TeacherUnavailableError: none of them was answered.
    """
    config = task.config
    checks = config.check_seeds or config.min_teacher_agreement is not None
    asked = [seed for seed in task.seeds if checks or (task.thinks and not seed.thinking)]
    said = await _ask(asked, teacher, requester)
    _check_answered(said)
    check = measure_agreement(task, asked, said) if checks else None
    if check is not None:
        _report(check, config.min_teacher_agreement, on_event)
    rows = [_row(task, seed, said.get(seed.id)) for seed in task.seeds]
    return await _rationalized(task, teacher, requester, rows), check


async def _ask(
    seeds: Sequence[Seed], teacher: TeacherProtocol, requester: AnswerRequester
) -> dict[str, ParsedAnswer | FailedAnswer]:
    requests = list(requester.blind_requests([seed.input for seed in seeds]))
    await teacher.complete_all(requests)
    answers = await to_thread.run_sync(lambda: list(requester.said(requests, each=1)))
    return {seed.id: answer for seed, (answer,) in zip(seeds, answers, strict=True)}


def _check_answered(said: dict[str, ParsedAnswer | FailedAnswer]) -> None:
    failed = [answer for answer in said.values() if isinstance(answer, FailedAnswer)]
    if said and len(failed) == len(said):
        raise none_answered("seeds", failed)


def none_answered(what: str, failed: Sequence[FailedAnswer]) -> TeacherUnavailableError:
    """What it comes to if each of some inputs was put to the teacher, and no answer came."""
    kind, n = Counter(one.kind for one in failed).most_common(1)[0]
    words = next(one.message for one in failed if one.kind == kind)
    return TeacherUnavailableError(
        f"the teacher answered none of the {len(failed)} {what}; {n} of them: {kind}: {words}",
        next_step="Mend that, or take another teacher, and run the same command: it goes on from "
        "here.",
    )


def measure_agreement(
    task: Task, seeds: Sequence[Seed], said: dict[str, ParsedAnswer | FailedAnswer]
) -> SeedAgreement | None:
    """The count over the seeds to which an answer came."""
    answered = [
        (seed, answer) for seed in seeds if isinstance(answer := said[seed.id], ParsedAnswer)
    ]
    if not answered:
        return None
    counts: Counter[str] = Counter()
    by_field: dict[str, Counter[str]] = {}
    wrong = []
    for seed, answer in answered:
        found = compare_answers(
            seed.output, answer.output, labels=task.labels, response=task.response
        )
        verdict = "same" if found.fields and found.whole == "reworded" else found.whole
        counts[verdict] += 1
        for name, each in found.fields.items():
            by_field.setdefault(name, Counter())[each] += 1
        if verdict == "different":
            differing = (name for name, each in found.fields.items() if each == "different")
            wrong.append((seed, answer.output, tuple(differing)))
    return SeedAgreement(counts["same"], len(answered), tuple(wrong), counts["reworded"], by_field)


def agrees_with_seed(task: Task, seed: Seed, output: str) -> bool:
    """Whether `output` is the seed's, by label, by field, or in other words."""
    found = compare_answers(seed.output, output, labels=task.labels, response=task.response)
    return found.whole != "different"


def _report(check: SeedAgreement, least: float | None, on_event: Listener) -> None:
    details = [check.fields_text(), check.differences() if check.disagreements else ""]
    differences = "".join(f"\n{text}" for text in details if text)
    if least is not None and check.share < least:
        raise LowSeedAgreementError(
            f"{check} At least {least:.0%} were wanted, so nothing more was asked.{differences}",
            next_step="Make the instruction say what decides these cases, mend the seeds, take "
            "another teacher, or lower min_teacher_agreement.",
        )
    on_event(Notice(f"{check}{differences}", "warning" if check.share < LOW else "info"))


def _row(task: Task, seed: Seed, said: ParsedAnswer | FailedAnswer | None) -> Trace:
    row = Trace(seed.input, seed.output, "seed", seed_ids=(seed.id,))
    if not task.thinks:
        return row
    if seed.thinking:
        return replace(row, thinking=seed.thinking, thinking_from="user")
    if (
        isinstance(said, ParsedAnswer)
        and said.thinking
        and agrees_with_seed(task, seed, said.output)
    ):
        return replace(
            row,
            thinking=said.thinking,
            thinking_from=said.thinking_from,
            teacher=task.config.teacher,
            request_keys=said.keys,
        )
    return row


async def _rationalized(
    task: Task, teacher: TeacherProtocol, requester: AnswerRequester, rows: Sequence[Trace]
) -> list[Trace]:
    """The rows with thinking for those that still lack it."""
    if not task.thinks:
        return list(rows)
    lacking = [row for row in rows if row.thinking is None]
    requests = list(requester.rationalize_requests(lacking))
    await teacher.complete_all(requests)
    results = await to_thread.run_sync(lambda: list(teacher.results(requests)))
    explained = {
        row.id: replace(
            row,
            thinking=read_rationale(task, outcome),
            thinking_from="rationalized",
            teacher=task.config.teacher,
            request_keys=outcome.keys,
        )
        for row, outcome in zip(lacking, results, strict=True)
        if isinstance(outcome, Answer)
    }
    return [_writable(task, explained[row.id], row) if row.id in explained else row for row in rows]


def _writable(task: Task, explained: Trace, row: Trace) -> Trace:
    """The explained row; without its explanation where the thinking format can't hold that."""
    return explained if round_trips(task.form, explained.thinking, explained.output) else row
