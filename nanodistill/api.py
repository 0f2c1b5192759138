"""The Python interface: each stage as one call, and `distill` for all of them.

Every stage that waits has an async twin. The plain functions work inside a running event loop too
(a notebook), in a thread of their own. Nothing is decided here: each stage's own package does the
work.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack

import anyio
from pydantic import BaseModel

from nanodistill import api
from nanodistill.config import DistillationConfig
from nanodistill.config.distill_options import DistillOptions
from nanodistill.config.synthesis_fields import Rows
from nanodistill.errors import InputError, NanoDistillError, knowing
from nanodistill.events import Listener, Notice, ignore
from nanodistill.interrupts import await_thread, wait_for_thread
from nanodistill.plugins import load_object
from nanodistill.run_dir import RunFolder

if TYPE_CHECKING:
    from nanodistill.dataset import DatasetVersion
    from nanodistill.evaluation import EvaluationResult, ExternalAnswer, StudentAnswer
    from nanodistill.evaluation.eval_set import EvalSet
    from nanodistill.exporting.pipeline import ExportResult
    from nanodistill.exporting.targets import Options, To
    from nanodistill.hub import PullResult, PushResult
    from nanodistill.hub.upload_bundle import RepoType
    from nanodistill.publish import What
    from nanodistill.reporting import Report
    from nanodistill.synthesis import PlanEstimate, SynthesisResult
    from nanodistill.training import TrainingResult


P = ParamSpec("P")
T = TypeVar("T")


async def synthesize_async(
    config: DistillationConfig, *, limit: int | None = None, on_event: Listener = ignore
) -> SynthesisResult:
    """Ask the teacher and write a dataset version; with `limit`, a preview of that many rows."""
    from nanodistill import synthesis

    return await synthesis.synthesize(config, limit=limit, on_event=on_event)


def synthesize(
    config: DistillationConfig, *, limit: int | None = None, on_event: Listener = ignore
) -> SynthesisResult:
    """`synthesize_async` for code that does not await."""
    return run_sync(lambda: synthesize_async(config, limit=limit, on_event=on_event))


async def plan_async(
    config: DistillationConfig, *, prompts: int = 0, on_event: Listener = ignore
) -> PlanEstimate:
    """What synthesis would ask and cost, without asking anything.

    Args:
        prompts: how many of the prompts to include, as they would be sent.
    """
    from nanodistill import synthesis

    return await synthesis.plan(config, prompts=prompts, on_event=on_event)


def plan(
    config: DistillationConfig, *, prompts: int = 0, on_event: Listener = ignore
) -> PlanEstimate:
    """`plan_async` for code that does not await."""
    return run_sync(lambda: plan_async(config, prompts=prompts, on_event=on_event))


def train(
    config: DistillationConfig,
    dataset: str | Path | None = None,
    *,
    dry_run: bool = False,
    on_event: Listener = ignore,
) -> TrainingResult:
    """Train the student on a dataset version (the run's latest) in a supervised child process.

    Args:
        dataset: a version's name or folder, or a Hub id with `@revision`.
        dry_run: stop after the preflight checks.
    """
    from nanodistill import training
    from nanodistill.hub.pull import open_dataset

    run = RunFolder(config.run_folder)
    return training.train(
        config, open_dataset(dataset, run), run, dry_run=dry_run, on_event=on_event
    )


def evaluate(
    config: DistillationConfig,
    dataset: str | Path | None = None,
    *,
    adapter: Path | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    teacher: bool = False,
    baseline: Literal["seeds"] | None = None,
    on_event: Listener = ignore,
) -> EvaluationResult:
    """Compare student and base on the test split of a dataset version, and write the report.

    Args:
        dataset: a version's name or folder, or a Hub id with `@revision`; unset, the one that
            the latest training run used.
        adapter: evaluate this adapter folder in place of the latest run's.
        model: evaluate this model in place of the student.
        endpoint: evaluate what an OpenAI-compatible server answers under this URL, by the name
            `model` or the only model that it has.
        teacher: put the same rows to the teacher as well. It is paid for like synthesis:
            through the run's journal, once, under the run's limits and budget.
        baseline: "seeds" trains a student on the seeds alone first, and compares with it: the
            gain over it is what the generated rows are worth.

    Raises:
        RunIncompleteError: asking the teacher stopped early (budget, key, quota); its answers are
            kept.
    """
    from nanodistill import evaluation

    run = RunFolder(config.run_folder)
    judged_on = _dataset_to_judge_on(dataset, run)
    result = evaluation.evaluate(
        config,
        judged_on,
        run,
        adapter=adapter,
        model=model,
        endpoint=endpoint,
        teacher=functools.partial(teacher_answers, config, judged_on, on_event)
        if teacher
        else None,
        seeds_only=_seeds_only(config, judged_on, run, on_event) if baseline else None,
        on_event=on_event,
    )
    _report_too(config, on_event)
    return result


def _seeds_only(
    config: DistillationConfig, dataset: DatasetVersion, run: RunFolder, on_event: Listener
) -> Path:
    """The adapter of a student trained on the dataset's seeds alone, in a run of its own.

    Raises:
        InputError: the dataset has no seeds.
    """
    columns = ("input", "thinking", "output")
    seeds = [
        {name: row[name] for name in columns if row[name] is not None}
        for split in ("train", "valid")
        for row in dataset.rows(split)
        if row["source"] == "seed"
    ]
    if not seeds:
        raise InputError(
            f"dataset version {dataset.name} has no seeds to train on.",
            next_step="Leave out --baseline seeds.",
        )
    alone = config.model_copy(
        update={
            "name": "seeds",
            "output_dir": run.evaluation / "baselines",
            "seed": seeds,
            "training_data": seeds,
            "test": None,
            "holdout_seeds": 0,
            "labels": list(dataset.manifest.labels or ()),
            "min_rows": 1,
        }
    )
    on_event(Notice(f"training a student on the {len(seeds)} seeds alone, to compare with"))
    synthesize(alone, on_event=on_event)
    trained = train(alone, on_event=on_event)
    if trained.adapter is None:
        raise NanoDistillError("The student on the seeds alone was not trained.")
    return Path(trained.adapter)


def teacher_answers(
    config: DistillationConfig, dataset: DatasetVersion, on_event: Listener, judged: EvalSet
) -> list[ExternalAnswer]:
    """The teacher's answers to the rows that are judged by, from the synthesis half."""
    from nanodistill.evaluation import ExternalAnswer
    from nanodistill.synthesis import answer_test_set

    inputs = [row.input for row in judged.rows]
    examined = run_sync(lambda: answer_test_set(config, dataset, inputs, on_event=on_event))
    return [
        ExternalAnswer(row.id, one.output, thinking=one.thinking, cost_usd=one.cost_usd)
        for row, one in zip(judged.rows, examined, strict=True)
    ]


def _dataset_to_judge_on(dataset: str | Path | None, run: RunFolder) -> DatasetVersion:
    """The version that was named, else the one that the latest training used, else the latest."""
    from nanodistill.evaluation.eval_models import dataset_of
    from nanodistill.hub.pull import open_dataset
    from nanodistill.training.runs import latest_run

    latest = latest_run(run)
    if dataset is None and latest is not None:
        return dataset_of(latest[0], run)
    return open_dataset(dataset, run)


def report(config: DistillationConfig) -> Report:
    """Write the run's report.html, one file that opens anywhere, with what there is so far.

    Raises:
        InputError: nothing was done in the run yet, or one of its files is damaged.
    """
    from nanodistill import reporting

    return reporting.write_report(config, RunFolder(config.run_folder))


def _report_too(config: DistillationConfig, on_event: Listener) -> None:
    """After an evaluation, which stands also where the report can't be written."""
    try:
        on_event(Notice(f"report in {report(config).path}"))
    except (NanoDistillError, OSError) as trouble:
        on_event(Notice(f"report.html was not written: {trouble}", "warning"))


def export(
    config: DistillationConfig,
    to: To = "mlx",
    *,
    options: Options | None = None,
    run_id: str | None = None,
    dataset: str | Path | None = None,
    on_event: Listener = ignore,
) -> ExportResult:
    """Write the trained student as an MLX folder, a GGUF file or for Ollama, and score it again.

    Args:
        options: the instruction in the chat template, how a GGUF file stores its weights.
        run_id: a training run in place of the latest.
        dataset: score by this version in place of the one that was trained on.

    Raises:
        VerificationError: it lost more than `export_tolerance` points; what was there stays.
    """
    from nanodistill import exporting

    run = RunFolder(config.run_folder)
    return exporting.export(
        config, run, to=to, options=options, run_id=run_id, dataset=dataset, on_event=on_event
    )


def push(
    config: DistillationConfig,
    repo: str,
    what: What = "dataset",
    *,
    public: bool = False,
    dataset: str | Path | None = None,
    run_id: str | None = None,
    allowed: Iterable[str] = (),
    on_event: Listener = ignore,
) -> PushResult:
    """Put the run's dataset version, adapter or exported model on the Hub; `repo` is OWNER/NAME.

    Args:
        what: "dataset", "adapter" or "fused" (the exported model).
        public: for everybody to see; what is there already stays as it is.
        dataset: a version in place of the latest.
        run_id: a training run's adapter in place of the latest.
        allowed: paths and addresses in the files that may be public.

    Raises:
        InputError: there is nothing to push, or no right to.
        RunIncompleteError: the Hub can't be reached; pushing again goes on.
    """
    from nanodistill import publish

    return publish.push_run(
        config,
        repo,
        what,
        public=public,
        dataset=dataset,
        run_id=run_id,
        allowed=allowed,
        on_event=on_event,
    )


def pull(
    repo: str, into: str | Path, *, kind: RepoType = "dataset", on_event: Listener = ignore
) -> PullResult:
    """Fetch OWNER/NAME or OWNER/NAME@REVISION from the Hub, check it, and make the folder `into`.

    Raises:
        InputError: there is no such repository or revision for us.
        VerificationError: what arrived is not what was pushed.
        RunIncompleteError: the Hub can't be reached; pulling again goes on.
    """
    from nanodistill import hub

    return hub.pull(repo, Path(into), kind=kind, on_event=on_event)


def ask(
    config: DistillationConfig, text: str, *, base: bool = False, on_event: Listener = ignore
) -> StudentAnswer:
    """The student's answer to `text`; the untrained model's with `base`."""
    from nanodistill import evaluation

    return evaluation.ask(config, RunFolder(config.run_folder), text, base=base, on_event=on_event)


def run_sync(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` to its end, in a thread of its own where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(work)
    return wait_for_thread(lambda: anyio.run(work))


def as_async(work: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """`work` for code that awaits, in a thread. Cancelling it stops the work and waits for that."""

    @functools.wraps(work)
    async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        return await await_thread(functools.partial(work, *args, **kwargs))

    waiting.__name__ = waiting.__qualname__ = f"{work.__name__}_async"
    waiting.__doc__ = f"`{work.__name__}` for code that awaits."
    return waiting


train_async = as_async(train)
evaluate_async = as_async(evaluate)
export_async = as_async(export)
ask_async = as_async(ask)
push_async = as_async(push)
pull_async = as_async(pull)
report_async = as_async(report)


@dataclass(frozen=True)
class DistillationResult:
    """What `distill` made: the fused model's folder, the evaluation, the resolved config.

    `metrics` is what `evaluate` found, under the names of `nanodistill eval --json`.
    """

    model_path: Path
    metrics: dict[str, Any]
    config: DistillationConfig

    def to_json(self) -> dict[str, Any]:
        return {"model_path": str(self.model_path), "metrics": self.metrics}

    def summary(self) -> str:
        return f"{self.metrics['verdict']}\nThe model is in {self.model_path}"

    def predict(self, text: str) -> str:
        """The student's answer to `text`, without its thinking."""
        return str(api.ask(self.config, text).output)


def distill(
    name: str,
    seed: Rows | Iterable[Any],
    instruction: str,
    teacher: str | Callable[..., Any] = "claude-sonnet-4-5",
    student: str = "mlx-community/Llama-3-8B-Instruct-4bit",
    augment_factor: int = 50,
    output_dir: str | Path = "./outputs",
    response_model: type[BaseModel] | str | None = None,
    **kwargs: Unpack[DistillOptions],
) -> DistillationResult:
    """Make a dataset with the teacher, train the student on it and evaluate it.

    Called again with the same arguments it goes on where it stopped, and does
    nothing that is done already.

    Args:
        name: of the run and of its folder under `output_dir`.
        seed: input/output rows (dicts, pairs, models, a data frame), or a file or Hub dataset.
        instruction: what the student is to do.
        teacher: a LiteLLM model id, `mlx/MODEL`, `python:module:function`, or a function.
        student: a Hub id, an MLX folder, a GGUF file or an embedded name.
        augment_factor: rows wanted for each seed.
        output_dir: folder that holds the run's folder.
        response_model: pydantic model of the output, where it is JSON.
        **kwargs: every other field of `DistillationConfig`, among them
            `temperature`, `lora_rank`, `litellm_kwargs` and `mlx_lm_kwargs`; see
            docs/CONFIGURATION.md.

    Raises:
        ConfigError: with all problems of the arguments at once.
        RunIncompleteError: the run stopped early and can go on (budget, key, quota, too few rows).
        MemoryLimitError: the memory guard stopped training after a checkpoint.
    """
    config = DistillationConfig(
        name=name,
        seed=seed,
        instruction=instruction,
        teacher=teacher,
        student=student,
        augment_factor=augment_factor,
        output_dir=output_dir,
        response_model=response_model,
        **kwargs,
    )
    return distill_config(config)


def distill_config(
    config: DistillationConfig, *, on_event: Listener = ignore
) -> DistillationResult:
    """What `distill` does, for a configuration that is already made."""
    if isinstance(config.metric, str) and ":" in config.metric:
        load_object(config.metric, field="metric")  # before anything is spent
    made = api.synthesize(config, on_event=on_event)
    with knowing(made.to_json):
        api.train(config, on_event=on_event)
        evaluation = api.evaluate(config, on_event=on_event)
        exported = api.export(config, on_event=on_event)
    return DistillationResult(exported.path, evaluation.to_json(), config)


distill_async = api.as_async(distill)
