"""The curation of a run, as the lists of steps that its rows go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanodistill.curation.contamination import ContaminationFilter
from nanodistill.curation.filter_pipeline import Filter
from nanodistill.curation.filters import (
    AssistantVoiceFilter,
    DuplicateFilter,
    HasOutput,
    HasThinking,
    LabelLeakFilter,
    LengthFilter,
    MinConfidence,
    RefusalFilter,
    RepetitionFilter,
    ResponseModelFilter,
    RoundTripFilter,
    StripWrappers,
    ValidText,
    VerifierFilter,
)
from nanodistill.curation.labels import LabelInSet
from nanodistill.curation.minhash import words_of
from nanodistill.curation.output_checks import OutputCheckFilter
from nanodistill.prompts import CHAT_TURN
from nanodistill.synthesis.answer_stage import ANSWERS, JUDGE, SECOND_ANSWER
from nanodistill.synthesis.generation_parser import PARSING
from nanodistill.synthesis.task import Task
from nanodistill.types import Seed, Trace

LONG_ENOUGH = 3


@dataclass(frozen=True)
class DedupState:
    """The two steps that remember, shared by all rows of a run: seeds first, then the others."""

    contamination: ContaminationFilter
    duplicates: DuplicateFilter

    @classmethod
    def of(cls, task: Task) -> DedupState:
        threshold = task.config.near_duplicate_threshold
        return cls(
            ContaminationFilter(task.test, task.seeds, threshold), DuplicateFilter(threshold)
        )

    def steps(self) -> list[Filter]:
        return [self.contamination, self.duplicates]


def input_filters(task: Task, seen: DedupState) -> list[Filter]:
    """What a generated input has to pass. A habit of the seeds themselves is no fault."""
    leaks = LabelLeakFilter(task.labels, _orders(task))
    tidying: list[Filter] = [
        StripWrappers(),
        RefusalFilter(),
        AssistantVoiceFilter(),
        RepetitionFilter(),
        leaks,
    ]
    return [
        ValidText(),
        *(step for step in tidying if leaves_alone(step, task.seeds)),
        LengthFilter.of(task.seeds),
        *seen.steps(),
    ]


def row_filters(task: Task, checks: OutputCheckFilter | None = None) -> list[Filter]:
    """What a row with its answer has to pass. `checks` are those that the policy offers."""
    steps: list[Filter] = [HasOutput(), ValidText()]
    if task.labels:
        steps.append(LabelInSet(task.labels))
    if task.response is not None:
        steps.append(ResponseModelFilter(task.response))
    if task.thinks:
        steps.append(HasThinking(spares_seeds=task.config.training_data is None))
    steps.append(RoundTripFilter(task.form))
    if task.config.min_confidence is not None:
        steps.append(MinConfidence(task.config.min_confidence))
    if checks is not None:
        steps.append(checks)
    if task.verifier is not None:
        steps.append(VerifierFilter(task.verifier))
    return steps


def _orders(task: Task) -> list[str]:
    """What chat turns ask for, by its words, where it is long enough to be told from an input.

    Without its first word, the verb: models repeat an order as what they give.
    """
    turn = task.prompts.templates.get(CHAT_TURN, "").partition("{label}")[0]
    words = words_of(turn)[1:]
    return [" ".join(words)] if len(words) >= LONG_ENOUGH else []


def filter_names(
    task: Task, seen: DedupState, checks: OutputCheckFilter | None = None
) -> list[str]:
    """All that a generated row goes through, in order."""
    inputs = [step.name for step in input_filters(task, seen)]
    rows = [step.name for step in row_filters(task, checks)]
    return [PARSING, *inputs, ANSWERS, *rows, SECOND_ANSWER, JUDGE]


def leaves_alone(step: Filter, seeds: Sequence[Seed]) -> bool:
    """Whether the step would neither refuse nor change any seed."""
    rows = [Trace(seed.input.strip(), seed.output, "seed") for seed in seeds]
    return all(step(row) == row for row in rows)
