"""The evaluation, from the dataset's test split to the verdict.

    rows → prompts → answers of each model → parsed outputs → scores → intervals and tests

Compared are the student, its base under the very same prompts, and the base with
the seeds as examples. All decode greedily, are parsed by the same thinking format
and scored by the same metric. The seed file is not opened: the dataset version
holds all that is needed.

To compare one more model, add its name to `eval_models.DISPLAY_NAMES`, and the model to
`build_models` if it generates answers, else its `Answerer` to `answerers` in `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion
from nanodistill.evaluation.answer_generation import AnswerCache, PendingAnswers, generate_missing
from nanodistill.evaluation.baselines import linear_answerer
from nanodistill.evaluation.endpoint import find_endpoint
from nanodistill.evaluation.eval_models import (
    BASE,
    FEW_SHOT,
    LINEAR,
    SEEDS_ONLY,
    STUDENT,
    TEACHER,
    EvalModel,
    StudentRef,
    dataset_of,
    display_name,
    find_student_ref,
    rows_trained_on,
)
from nanodistill.evaluation.eval_set import Answerer, EvalSet, eval_set, shots, usd_per_1000
from nanodistill.evaluation.results import EvaluationResult, Subject, save
from nanodistill.evaluation.scorer import ModelScore, Prediction, Scorer, speed_of
from nanodistill.events import Listener, Notice, ignore
from nanodistill.metrics.metric_selection import MetricChoice, TaskFacts, choose_metric
from nanodistill.metrics.output_parser import output_format
from nanodistill.models.resolve import ResolvedModel
from nanodistill.run_dir import RunFolder
from nanodistill.stats import compare
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
    seeds_only: Path | None = None,
    on_event: Listener = ignore,
) -> EvaluationResult:
    """Compare the student with its base on the dataset's test split.

    Cached answers are not generated again, even those of an evaluation that was killed.

    Args:
        adapter: evaluate this adapter folder in place of the latest training run's.
        model: evaluate this model in place of the student.
        endpoint: evaluate what the OpenAI-compatible server at this URL answers, under the name
            `model` or the only model that it serves.
        teacher: returns the teacher's answers to the same rows. It is called only once a
            student is found, because its answers cost money.
        seeds_only: adapter of a student that was trained on the seeds alone, to compare with.

    Raises:
        InputError: there is no student, or no row to evaluate on.
        ModelError: a model or adapter can't be used.
        EndpointError: the endpoint failed.
        RunLockedError: another evaluation of this run is running.
    """
    examples = eval_set(dataset)
    manifest = dataset.manifest
    choice = choose_metric(
        config, TaskFacts(manifest.labels, manifest.response_schema), examples.golds
    )
    on_event(_announcement(examples, choice))
    base = find_student(config, run, on_event)
    override = find_endpoint(endpoint, model) if endpoint is not None else model or adapter
    student = find_student_ref(config, run, base, override, on_event)
    _warn_of_overlap(examples, dataset, student, run, on_event)
    thinking_format = output_format(
        manifest.thinking_format, student.train_on, config.thinking_format
    )
    scorer = Scorer(choice.metric, thinking_format, examples.rows)
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)

    answerers: dict[str, Answerer | None] = {TEACHER: teacher, LINEAR: linear_answerer(dataset)}
    predictions: dict[str, list[Prediction]] = {}
    scores: dict[str, ModelScore] = {}
    with run.locked("eval"):
        external = {
            name: {one.id: one for one in answerer(examples)}
            for name, answerer in answerers.items()
            if answerer is not None
        }
        cache = AnswerCache(run.evaluation / "answers.jsonl")
        pending = [
            PendingAnswers(one, examples.rows, one.keys(examples.rows, config.max_new_tokens))
            for one in build_models(
                base, student, shots(dataset, thinking_format), kwargs, seeds_only
            )
        ]
        generated = generate_missing(pending, cache, config, on_event)
        for one in pending:
            name, answers = one.eval_model.name, [cache[key] for key in one.keys]
            predictions[name] = scorer.generated(name, answers)
            scores[name] = scorer.score(predictions[name], speed_of(answers))
        for name, by_id in external.items():
            predictions[name] = scorer.external(name, by_id)
            price = usd_per_1000(by_id.values())
            scores[name] = scorer.score(predictions[name], usd_per_1000=price)
        by_row = {name: [one.score for one in lines] for name, lines in predictions.items()}
        result = EvaluationResult(
            subject=Subject(
                run=student.run,
                student=display_name(student.eval_model.model),
                identities={one.eval_model.name: one.eval_model.identity for one in pending},
                dataset=dataset.name,
                fingerprint=dataset.fingerprint,
                split=examples.split,
            ),
            n=len(examples.rows),
            metric=choice.metric.name,
            measure=choice.metric.measure,
            reason=choice.reason,
            max_new_tokens=config.max_new_tokens,
            models=scores,
            against={
                name: compare(by_row[STUDENT], by_row[name]) for name in by_row if name != STUDENT
            },
            generated=generated,
            reused=len({key for one in pending for key in one.keys}) - generated,
            folder=run.evaluation / student.run,
        )
        save(result, [line for lines in predictions.values() for line in lines])
    on_event(result.table())
    return result


def _announcement(examples: EvalSet, choice: MetricChoice) -> Notice:
    scoring = f"scoring {choice.metric.measure} on {len(examples.rows)} {examples.split} rows"
    if examples.split == "valid":
        caveat = "there is no test split, and these rows also steered training"
        return Notice(f"{scoring}: {caveat} ({choice.reason})", "warning")
    return Notice(f"{scoring} ({choice.reason})")


def build_models(
    base: ResolvedModel,
    student: StudentRef,
    shots: Sequence[Message],
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    seeds_only: Path | None = None,
) -> list[EvalModel]:
    """The models that generate answers: base, base with `shots` if any, student.

    `seeds_only` is the adapter of another student.

    `tokenizer_kwargs` are the base's.
    """
    plain = EvalModel(BASE, base, tokenizer_kwargs=tokenizer_kwargs or {})
    few_shot = [replace(plain, name=FEW_SHOT, shots=tuple(shots))] if shots else []
    on_seeds = [replace(plain, name=SEEDS_ONLY, adapter=seeds_only)] if seeds_only else []
    return [plain, *few_shot, *on_seeds, student.eval_model]


def _warn_of_overlap(
    examples: EvalSet,
    dataset: DatasetVersion,
    student: StudentRef,
    run: RunFolder,
    on_event: Listener,
) -> None:
    """Rows of another version of the dataset may have been training rows in this one."""
    if student.entry is None:
        return
    seen = rows_trained_on(examples, dataset, dataset_of(student.entry, run))
    if seen:
        on_event(
            Notice(
                f"{seen} of these {len(examples.rows)} rows were among the student's training "
                f"rows ({student.entry.dataset}), so it may have memorized them",
                "warning",
            )
        )
