"""The curation of a run, as the lists of steps that its rows go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanodistill.curation.contamination import Contamination
from nanodistill.curation.dedup import Duplicates
from nanodistill.curation.inputs import Fits, NoAssistant, NoLeaks, NoLoops, NoRefusal, Tidy
from nanodistill.curation.labels import LabelInSet
from nanodistill.curation.near import words_of
from nanodistill.curation.sieve import Step
from nanodistill.curation.verify import (
    Confident,
    HasOutput,
    HasThinking,
    Renderable,
    ValidResponse,
    ValidText,
    Verified,
)
from nanodistill.prompts import CHAT_TURN
from nanodistill.records import Seed, Trace
from nanodistill.synthesis.answering import ANSWERS, JUDGE, LABELS
from nanodistill.synthesis.reading import PARSING
from nanodistill.synthesis.task import Task

LONG_ENOUGH = 3


@dataclass(frozen=True)
class Seen:
    """The two steps that remember, shared by all rows of a run: seeds first, then the others."""

    contamination: Contamination
    duplicates: Duplicates

    @classmethod
    def of(cls, task: Task) -> Seen:
        threshold = task.config.near_duplicate_threshold
        return cls(Contamination(task.test, task.seeds, threshold), Duplicates(threshold))

    def steps(self) -> list[Step]:
        return [self.contamination, self.duplicates]


def input_steps(task: Task, seen: Seen) -> list[Step]:
    """What a generated input has to pass. A habit of the seeds themselves is no fault."""
    leaks = NoLeaks(task.labels, _orders(task))
    tidying: list[Step] = [Tidy(), NoRefusal(), NoAssistant(), NoLoops(), leaks]
    return [
        ValidText(),
        *(step for step in tidying if leaves_alone(step, task.seeds)),
        Fits.of(task.seeds),
        *seen.steps(),
    ]


def row_steps(task: Task) -> list[Step]:
    """What a row with its answer has to pass."""
    steps: list[Step] = [HasOutput(), ValidText()]
    if task.labels:
        steps.append(LabelInSet(task.labels))
    if task.response is not None:
        steps.append(ValidResponse(task.response))
    if task.thinks:
        steps.append(HasThinking(spares_seeds=task.config.training_data is None))
    steps.append(Renderable(task.form))
    if task.config.min_confidence is not None:
        steps.append(Confident(task.config.min_confidence))
    if task.verifier is not None:
        steps.append(Verified(task.verifier))
    return steps


def _orders(task: Task) -> list[str]:
    """What chat turns ask for, by its words, where it is long enough to be told from an input.

    Without its first word, the verb: models repeat an order as what they give.
    """
    turn = task.prompts.templates.get(CHAT_TURN, "").partition("{label}")[0]
    words = words_of(turn)[1:]
    return [" ".join(words)] if len(words) >= LONG_ENOUGH else []


def step_names(task: Task, seen: Seen) -> list[str]:
    """All that a generated row goes through, in order."""
    answers = ANSWERS if task.asks_answers else LABELS
    inputs = [step.name for step in input_steps(task, seen)]
    return [PARSING, *inputs, answers, *(step.name for step in row_steps(task)), JUDGE]


def leaves_alone(step: Step, seeds: Sequence[Seed]) -> bool:
    """Whether the step would neither refuse nor change any seed."""
    rows = [Trace(seed.input.strip(), seed.output, "seed") for seed in seeds]
    return all(step(row) == row for row in rows)
