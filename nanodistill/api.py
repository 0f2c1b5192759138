"""The library's front door: the stages, one call each. `distilling` has the call for all of them.

Every stage that waits has an async twin; the plain ones work inside a running
event loop too (a notebook), by running in a thread of their own. Nothing here
decides anything: a stage's own room does the work.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from nanodistill.config import DistillationConfig
from nanodistill.errors import NanoDistillError
from nanodistill.events import Listener, Notice, silent
from nanodistill.interrupts import await_thread, wait_for_thread
from nanodistill.runfolder import RunFolder

if TYPE_CHECKING:
    from nanodistill.dataset import DatasetVersion
    from nanodistill.evaluation import Answer, EvaluationResult, GivenAnswer
    from nanodistill.evaluation.prompts import JudgedSet
    from nanodistill.exporting.exporting import Exported
    from nanodistill.exporting.targets import Options, To
    from nanodistill.hub import Pulled, Pushed
    from nanodistill.hub.parcel import RepoType
    from nanodistill.reporting import Report
    from nanodistill.sharing import What
    from nanodistill.synthesis import PlanEstimate, SynthesisResult
    from nanodistill.training import TrainingResult

P = ParamSpec("P")
T = TypeVar("T")


async def synthesize_async(
    config: DistillationConfig, *, limit: int | None = None, listen: Listener = silent
) -> SynthesisResult:
    """Ask the teacher and write a dataset version; with `limit`, a preview of that many rows."""
    from nanodistill import synthesis

    return await synthesis.synthesize(config, limit=limit, listen=listen)


def synthesize(
    config: DistillationConfig, *, limit: int | None = None, listen: Listener = silent
) -> SynthesisResult:
    """`synthesize_async` for code that does not await."""
    return _awaited(lambda: synthesize_async(config, limit=limit, listen=listen))


async def plan_async(config: DistillationConfig, *, listen: Listener = silent) -> PlanEstimate:
    """What synthesis would ask, and what it would cost, without asking."""
    from nanodistill import synthesis

    return await synthesis.plan(config, listen=listen)


def plan(config: DistillationConfig, *, listen: Listener = silent) -> PlanEstimate:
    """`plan_async` for code that does not await."""
    return _awaited(lambda: plan_async(config, listen=listen))


def train(
    config: DistillationConfig,
    dataset: str | Path | None = None,
    *,
    dry_run: bool = False,
    listen: Listener = silent,
) -> TrainingResult:
    """Train the student on a dataset version (the run's latest) in a supervised child process.

    Args:
        dataset: a version's name or folder, or a Hub id with `@revision`.
        dry_run: stop after the preflight checks.
    """
    from nanodistill import training
    from nanodistill.dataset import open_version

    run = RunFolder(config.run_folder)
    return training.train(config, open_version(dataset, run), run, dry_run=dry_run, listen=listen)


def evaluate(
    config: DistillationConfig,
    dataset: str | Path | None = None,
    *,
    adapter: Path | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    teacher: bool = False,
    listen: Listener = silent,
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

    Raises:
        Stopped: asking the teacher stopped early (budget, key, quota); its answers are kept.
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
        teacher=functools.partial(_taught, config, judged_on, listen) if teacher else None,
        listen=listen,
    )
    _report_too(config, listen)
    return result


def _taught(
    config: DistillationConfig, dataset: DatasetVersion, listen: Listener, judged: JudgedSet
) -> list[GivenAnswer]:
    """The teacher's answers to the rows that are judged by, from the synthesis half."""
    from nanodistill.evaluation import GivenAnswer
    from nanodistill.synthesis import examine

    inputs = [row.input for row in judged.rows]
    examined = _awaited(lambda: examine(config, dataset, inputs, listen=listen))
    return [
        GivenAnswer(row.id, one.output, thinking=one.thinking, cost_usd=one.cost_usd)
        for row, one in zip(judged.rows, examined, strict=True)
    ]


def _dataset_to_judge_on(dataset: str | Path | None, run: RunFolder) -> DatasetVersion:
    """The version that was named, else the one that the latest training used, else the latest."""
    from nanodistill.dataset import open_version
    from nanodistill.evaluation.trained import dataset_of
    from nanodistill.training.runs import latest_run

    latest = latest_run(run)
    if dataset is None and latest is not None:
        return dataset_of(latest[0], run)
    return open_version(dataset, run)


def report(config: DistillationConfig) -> Report:
    """Write the run's report.html, one file that opens anywhere, with what there is so far.

    Raises:
        InputError: nothing was done in the run yet, or one of its files is damaged.
    """
    from nanodistill import reporting

    return reporting.write_report(config, RunFolder(config.run_folder))


def _report_too(config: DistillationConfig, listen: Listener) -> None:
    """After an evaluation, which stands also where the report can't be written."""
    try:
        listen(Notice(f"report in {report(config).path}"))
    except (NanoDistillError, OSError) as trouble:
        listen(Notice(f"report.html was not written: {trouble}", "warning"))


def export(
    config: DistillationConfig,
    to: To = "mlx",
    *,
    options: Options | None = None,
    run_id: str | None = None,
    dataset: str | Path | None = None,
    listen: Listener = silent,
) -> Exported:
    """Write the trained student as an MLX folder, a GGUF file or for Ollama, and score it again.

    Args:
        options: the instruction in the chat template, how a GGUF file stores its weights.
        run_id: a training run in place of the latest.
        dataset: score by this version in place of the one that was trained on.

    Raises:
        CheckFailed: it lost more than `export_tolerance` points; what was there stays.
    """
    from nanodistill import exporting

    run = RunFolder(config.run_folder)
    return exporting.export(
        config, run, to=to, options=options, run_id=run_id, dataset=dataset, listen=listen
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
    listen: Listener = silent,
) -> Pushed:
    """Put the run's dataset version, adapter or exported model on the Hub; `repo` is OWNER/NAME.

    Args:
        what: "dataset", "adapter" or "fused" (the exported model).
        public: for everybody to see; what is there already stays as it is.
        dataset: a version in place of the latest.
        run_id: a training run's adapter in place of the latest.
        allowed: paths and addresses in the files that may be public.

    Raises:
        InputError: there is nothing to push, or no right to.
        Stopped: the Hub can't be reached; pushing again goes on.
    """
    from nanodistill import sharing

    return sharing.push_run(
        config,
        repo,
        what,
        public=public,
        dataset=dataset,
        run_id=run_id,
        allowed=allowed,
        listen=listen,
    )


def pull(
    repo: str, into: str | Path, *, kind: RepoType = "dataset", listen: Listener = silent
) -> Pulled:
    """Fetch OWNER/NAME or OWNER/NAME@REVISION from the Hub, check it, and make the folder `into`.

    Raises:
        InputError: there is no such repository or revision for us.
        CheckFailed: what arrived is not what was pushed.
        Stopped: the Hub can't be reached; pulling again goes on.
    """
    from nanodistill import hub

    return hub.pull(repo, Path(into), kind=kind, listen=listen)


def ask(
    config: DistillationConfig, text: str, *, base: bool = False, listen: Listener = silent
) -> Answer:
    """The student's answer to `text`; the untrained model's with `base`."""
    from nanodistill import evaluation

    return evaluation.ask(config, RunFolder(config.run_folder), text, base=base, listen=listen)


def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` to its end, in a thread of its own where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(work)
    return wait_for_thread(lambda: anyio.run(work))


def twin(work: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """`work` for code that awaits, in a thread. Cancelling it stops the work and waits for that."""

    @functools.wraps(work)
    async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        return await await_thread(functools.partial(work, *args, **kwargs))

    waiting.__name__ = waiting.__qualname__ = f"{work.__name__}_async"
    waiting.__doc__ = f"`{work.__name__}` for code that awaits."
    return waiting


train_async = twin(train)
evaluate_async = twin(evaluate)
export_async = twin(export)
ask_async = twin(ask)
push_async = twin(push)
pull_async = twin(pull)
report_async = twin(report)
