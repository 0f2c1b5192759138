"""The evaluation, from the dataset's test split to the verdict.

    rows → prompts → answers of each contender → readings → scores → intervals and tests

Contenders are the student, its base under the very same prompts, and the base
with the seeds as examples. All are decoded greedily, read by the same format
and compared under the same normalization. The seed file is not opened: the
dataset version has all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion
from nanodistill.evaluation.answer_cache import AnswerCache
from nanodistill.evaluation.answer_generation import PendingAnswers, generate_missing
from nanodistill.evaluation.endpoint import find_endpoint
from nanodistill.evaluation.eval_models import (
    BASE,
    FEW_SHOT,
    STUDENT,
    TEACHER,
    EvalModel,
    StudentRef,
    dataset_of,
    display_name,
    find_student_ref,
    rows_trained_on,
)
from nanodistill.evaluation.eval_set import EvalSet, eval_set, shots
from nanodistill.evaluation.external_answers import Answerer, ExternalAnswer, usd_per_1000
from nanodistill.evaluation.results import EvaluationResult, ModelScore, Prediction, Subject, save
from nanodistill.evaluation.scorer import Scorer, speed_of
from nanodistill.events import Listener, Notice, ignore
from nanodistill.metrics.metric_selection import MetricChoice, TaskFacts, choose_metric
from nanodistill.metrics.output_parser import output_format
from nanodistill.models.resolve import ResolvedModel
from nanodistill.run_dir import RunFolder
from nanodistill.stats import Paired, compare
from nanodistill.training.student_identity import find_student, tokenizer_settings
from nanodistill.types import Message


def evaluate(
    config: DistillationConfig,
    dataset: DatasetVersion,
    run: RunFolder,
    *,
    adapter: Path | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    teacher: Answerer | None = None,
    on_event: Listener = ignore,
) -> EvaluationResult:
    """Compare the student with its base on the dataset's test split.

    What was generated before is not generated again, not even by an evaluation
    that was killed.

    Args:
        adapter: judge this adapter folder in place of the latest training run's.
        model: judge this model in place of the student.
        endpoint: judge what an OpenAI-compatible server answers, under this URL and the name
            `model`, or the only model that it has.
        teacher: gets the teacher's answers to the same rows (see given.py).

    Raises:
        InputError: there is nothing to judge, or nothing to judge by.
        ModelError: a model or adapter can't be used.
        EndpointFailed: the endpoint did not answer.
        RunLockedError: another evaluation of this run is on.
    """
    judged = eval_set(dataset)
    facts = TaskFacts(dataset.manifest.labels, dataset.manifest.response_schema)
    choice = choose_metric(config, facts, judged.golds)
    on_event(_announcement(judged, choice))
    base = find_student(config, run, on_event)
    named = find_endpoint(endpoint, model) if endpoint is not None else model or adapter
    candidate = find_student_ref(config, run, base, named, on_event)
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
    _warn_of_overlap(judged, dataset, candidate, run, on_event)
    form = output_format(
        dataset.manifest.thinking_format, candidate.train_on, config.thinking_format
    )
    judge = Scorer(choice.metric, form, judged.rows)
    with run.locked("eval"):
        scored = _teacher_scored(judge, teacher(judged)) if teacher else {}
        answers = AnswerCache(run.evaluation / "answers.jsonl")
        wanted = [
            PendingAnswers(one, judged.rows, one.keys(judged.rows, config.max_new_tokens))
            for one in build_models(base, candidate, shots(dataset, form), kwargs)
        ]
        generated = generate_missing(wanted, answers, config, on_event)
        scored = {one.contender.name: _scored(judge, one, answers) for one in wanted} | scored
        result = EvaluationResult(
            subject=_subject(candidate, wanted, dataset, judged),
            n=len(judged.rows),
            metric=choice.metric.name,
            measure=choice.metric.measure,
            reason=choice.reason,
            max_new_tokens=config.max_new_tokens,
            models={name: one.score for name, one in scored.items()},
            against=_against(scored),
            generated=generated,
            reused=len({key for one in wanted for key in one.keys}) - generated,
            folder=run.evaluation / candidate.run,
        )
        save(result, [line for one in scored.values() for line in one.predictions])
    on_event(result.table())
    return result


@dataclass(frozen=True)
class Scored:
    """One model's predictions, and what they come to."""

    predictions: Sequence[Prediction]
    score: ModelScore


def _announcement(judged: EvalSet, choice: MetricChoice) -> Notice:
    said = f"judging by {choice.metric.measure} on {len(judged.rows)} {judged.split} rows"
    if judged.split == "valid":
        return Notice(
            f"{said}: there is no test split, and training was steered by these ({choice.reason})",
            "warning",
        )
    return Notice(f"{said} ({choice.reason})")


def _scored(judge: Scorer, one: PendingAnswers, answers: AnswerCache) -> Scored:
    generated = [answers[key] for key in one.keys]
    predictions = judge.generated(one.contender.name, generated)
    return Scored(predictions, judge.score(predictions, speed_of(generated)))


def _teacher_scored(judge: Scorer, given: Iterable[ExternalAnswer]) -> dict[str, Scored]:
    """The teacher under its name."""
    answers = {answer.id: answer for answer in given}
    predictions = judge.given(TEACHER, answers)
    score = judge.score(predictions, usd_per_1000=usd_per_1000(answers.values()))
    return {TEACHER: Scored(predictions, score)}


def _against(scored: Mapping[str, Scored]) -> dict[str, Paired]:
    """The student against each of the others, on the same rows."""
    mine = [line.score for line in scored[STUDENT].predictions]
    return {
        name: compare(mine, [line.score for line in one.predictions])
        for name, one in scored.items()
        if name != STUDENT
    }


def _subject(
    candidate: StudentRef,
    wanted: Sequence[PendingAnswers],
    dataset: DatasetVersion,
    judged: EvalSet,
) -> Subject:
    return Subject(
        run=candidate.run,
        student=display_name(candidate.contender.model),
        identities={one.contender.name: one.contender.identity for one in wanted},
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        split=judged.split,
    )


def build_models(
    base: ResolvedModel,
    candidate: StudentRef,
    shown: Sequence[Message],
    tokenizer_kwargs: Mapping[str, Any] | None = None,
) -> list[EvalModel]:
    """Base, base with examples where there are any, student. `tokenizer_kwargs` are the base's."""
    plain = EvalModel(BASE, base, tokenizer_kwargs=tokenizer_kwargs or {})
    few_shot = [replace(plain, name=FEW_SHOT, shots=tuple(shown))] if shown else []
    return [plain, *few_shot, candidate.contender]


def _warn_of_overlap(
    judged: EvalSet,
    dataset: DatasetVersion,
    candidate: StudentRef,
    run: RunFolder,
    on_event: Listener,
) -> None:
    if candidate.entry is None:
        return
    seen = rows_trained_on(judged, dataset, dataset_of(candidate.entry, run))
    if seen:
        on_event(
            Notice(
                f"{seen} of these {len(judged.rows)} rows were among the student's training rows "
                f"({candidate.entry.dataset}): it may have learned them by heart",
                "warning",
            )
        )
