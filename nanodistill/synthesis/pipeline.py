"""The stages of synthesis, in order.

    task       read the seeds and all that the configuration names; check it
    seeds      let the teacher answer them blind; stop if it can't
    policy     what the task is, asked once or derived
    plan       axes, cells, slots
    rounds     inputs for the slots, answers to them, curation, until they are filled
    version    split, test rows, card, manifest

Everything that was asked lies in the journal before it is read, so a stage that
is run again reads the same answers and comes to the same rows; only the first
run pays. With `training_data` the rows are the user's, there is no teacher, and
only curation and version remain.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from anyio import to_thread

from nanodistill.config import DistillationConfig
from nanodistill.curation.filter_pipeline import FilterPipeline
from nanodistill.curation.output_checks import OutputCheckFilter, usable_checks
from nanodistill.dataset import DatasetVersion
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.errors import knowing
from nanodistill.events import Listener, Notice, ignore
from nanodistill.frozen_gc import frozen_gc
from nanodistill.journal import UsageTotals
from nanodistill.providers.base import Provider
from nanodistill.run_dir import RunFolder, write_json
from nanodistill.synthesis import teacher_eval
from nanodistill.synthesis.answer_stage import AnswerStage
from nanodistill.synthesis.answers import AnswerRequester, answer_guidance
from nanodistill.synthesis.axes import check_plan
from nanodistill.synthesis.coverage import Slot, iter_slots
from nanodistill.synthesis.dataset_builder import RunCost, RunFacts, write_dataset
from nanodistill.synthesis.earlier_release import finished_version
from nanodistill.synthesis.generation import CallPlanner, RecentInputs
from nanodistill.synthesis.generation_parser import GenerationParser
from nanodistill.synthesis.generation_prompt import PromptBuilder, as_text
from nanodistill.synthesis.ledger import Ledger, RowSpool
from nanodistill.synthesis.policy import TaskPolicy, keep_policy, resolve_policy
from nanodistill.synthesis.result import SynthesisResult
from nanodistill.synthesis.rounds import Rounds, abandon_requests
from nanodistill.synthesis.row_filters import DedupState, filter_names, input_filters, row_filters
from nanodistill.synthesis.seed_agreement import check_seeds
from nanodistill.synthesis.synthesis_context import SynthesisContext, open_context
from nanodistill.synthesis.task import Task, load_task
from nanodistill.synthesis.user_rows import curate_user_rows, place
from nanodistill.types import Trace, Usage


async def synthesize(
    config: DistillationConfig,
    *,
    provider: Provider | None = None,
    on_event: Listener = ignore,
    limit: int | None = None,
    stop: StopSignal | None = None,
) -> SynthesisResult:
    """Ask the teacher and write a dataset version. Run again, it goes on where it stopped.

    Args:
        provider: answers in place of the teacher that the configuration names.
        limit: make a preview of so many rows instead, and no version.
        stop: asks the run to stop; without one, Ctrl-C and SIGTERM do.

    Raises:
        InputError: something is wrong with configuration, input or folder; nothing was spent.
        RunIncompleteError: the run stopped early; what it has is safe, and it can go on.
    """
    task = await to_thread.run_sync(load_task, config, on_event)
    check_plan(task)
    run = RunFolder(config.run_folder)
    with run.locked("synth"), RowSpool() as kept, RowSpool() as rejected:
        ledger = Ledger(kept, rejected)
        if limit is None and config.training_data is None:
            finished = await to_thread.run_sync(finished_version, run, task)
            if finished is not None:
                return _finished(task, finished, on_event)
        await to_thread.run_sync(write_json, run.config, config.to_json())
        if config.training_data is not None:
            return await to_thread.run_sync(_own_rows, run, task, ledger, on_event, limit)
        async with open_context(task, run, on_event, provider=provider, stop=stop) as bench:
            with knowing(lambda: _so_far(bench, ledger)):
                made = await ask(bench, ledger, limit)
        if limit is not None:
            return _result(task, ledger, made, None, preview=_first_new(ledger, limit))
        with frozen_gc(), knowing(lambda: _result(task, ledger, made, None).to_json()):
            version = await to_thread.run_sync(write_dataset, run, task, ledger, made)
        return _result(task, ledger, made, version)


def _finished(task: Task, version: DatasetVersion, on_event: Listener) -> SynthesisResult:
    """The result of a run that an earlier release completed."""
    manifest = version.manifest
    release = manifest.libraries.get("nanodistill", "an earlier release")
    on_event(
        Notice(
            f"NanoDistill {release} completed this dataset from the same settings, so nothing is "
            "asked. For rows by the prompts of this release, start a run with another name."
        )
    )
    return SynthesisResult(
        wanted=task.wanted,
        requested=manifest.requested,
        kept=manifest.counts.kept,
        rejected=manifest.counts.rejected,
        failed=manifest.failed,
        by_cell={},
        calls={"made": 0, "reused": manifest.calls.made if manifest.calls else 0, "retried": 0},
        usage=Usage(),
        cost_usd=manifest.cost_usd,
        dataset=version,
        stopped_because="complete",
    )


async def ask(bench: SynthesisContext, ledger: Ledger, limit: int | None) -> RunFacts:
    """The stages that have a teacher. The rows go into the ledger."""
    task, teacher, on_event = bench.task, bench.teacher, bench.on_event
    seeds, check = await check_seeds(task, teacher, bench.requester, on_event)
    settled = await resolve_policy(task, teacher, bench.run.policy, on_event)
    policy = settled.policy
    if bench.writes:
        await to_thread.run_sync(keep_policy, bench.run.policy, settled)
    checks = output_checks(task, policy, on_event)
    seen = DedupState.of(task)
    ledger.steps.list(filter_names(task, seen, checks))
    for_seeds = FilterPipeline([*seen.steps(), *row_filters(task)], ledger.steps)
    for seed in seeds:
        place(seed, for_seeds, ledger)
    _tell_of_seeds(ledger, len(seeds), on_event)
    writer = PromptBuilder.of(task, policy)
    axes = list(writer.axes.values())
    slots, wanted = iter_slots(axes, task), max(0, task.wanted - len(ledger.kept))
    requester = AnswerRequester(task, teacher, answer_guidance(task, policy))
    rounds = _rounds(bench, writer, requester, seen, checks, ledger)
    if limit is None:
        stopped = await rounds.fill(slots, wanted, ledger, on_event)
        if bench.writes:
            await to_thread.run_sync(abandon_requests, bench.journal, task, teacher.lost, stopped)
    else:
        stopped = await rounds.preview(slots, wanted, limit, ledger)
    prompts = _prompts(task, writer, iter_slots(axes, task))
    cues = tuple(str(cue) for cue in rounds.cues)
    return RunFacts(policy, check, prompts, _spent(bench), stopped, cues)


def output_checks(task: Task, policy: TaskPolicy, on_event: Listener) -> OutputCheckFilter | None:
    """The policy's checks that every seed passes; the others are named."""
    usable, dropped = usable_checks(policy.checks, task.seeds)
    if dropped:
        what = "\n".join(f"  {reason}" for reason in dropped)
        on_event(Notice(f"Checks of policy.json that are not used:\n{what}"))
    return OutputCheckFilter(usable) if usable else None


def _tell_of_seeds(ledger: Ledger, seeds: int, on_event: Listener) -> None:
    """Say so where the user's own examples do not become rows."""
    lost = ledger.accounts.total().rejected
    if lost:
        why = ", ".join(f"{reason} {n}" for reason, n in lost.most_common())
        text = f"{lost.total()} of {seeds} seeds do not become rows ({why}); prompts show them."
        on_event(Notice(text, "warning"))


def _own_rows(
    run: RunFolder, task: Task, ledger: Ledger, on_event: Listener, limit: int | None
) -> SynthesisResult:
    """The stages that remain where the user brings the rows."""
    task = curate_user_rows(task, ledger, on_event)
    made = RunFacts(None, None, {}, RunCost(), "complete" if limit is None else "preview")
    if limit is not None:
        return _result(task, ledger, made, None, preview=_first_new(ledger, limit))
    return _result(task, ledger, made, write_dataset(run, task, ledger, made))


def _rounds(
    bench: SynthesisContext,
    writer: PromptBuilder,
    requester: AnswerRequester,
    seen: DedupState,
    checks: OutputCheckFilter | None,
    ledger: Ledger,
) -> Rounds:
    task = bench.task
    reader = GenerationParser(
        task, bench.journal, FilterPipeline(input_filters(task, seen), ledger.steps)
    )
    answering = AnswerStage(
        task,
        bench.teacher,
        requester,
        FilterPipeline(row_filters(task, checks), ledger.steps),
        bench.judge,
    )
    return Rounds(task, bench.teacher, writer, reader, answering, in_turn=not bench.writes)


def _spent(bench: SynthesisContext) -> RunCost:
    """This session's calls, and what the dataset has cost since the run's beginning."""
    account, stages = bench.teacher.account, bench.journal.sums()
    run = sum(
        (sums for stage, sums in stages.items() if stage != teacher_eval.STAGE), UsageTotals()
    )
    return RunCost(account.made, account.reused, account.retried, run.usage, run.known_cost)


def _so_far(bench: SynthesisContext, ledger: Ledger) -> dict[str, Any]:
    """What can be said of a run that stops: rows that are not at their end do not count yet."""
    spent, total = _spent(bench), ledger.accounts.total()
    made = RunFacts(None, None, {}, spent, "")
    told = _result(bench.task, ledger, made, None).to_json()
    ended = total.requested - total.under_way
    return told | {"requested": ended, "stopped_because": None}


def _prompts(task: Task, writer: PromptBuilder, slots: Iterator[Slot]) -> dict[str, str]:
    """The templates that were used, in full, and a generation call of one row."""
    config = task.config
    unused = {
        "cot_system": not task.thinks,
        "policy_extraction_system": not config.extract_policy,
        "judge_system": config.judge is None,
    }
    used = {
        name: text for name, text in task.prompts.templates.items() if not unused.get(name, False)
    }
    (call,) = CallPlanner(task, RecentInputs(), list(writer.axes.values())).calls([next(slots)])
    return {**used, "generation call": as_text(writer.messages(call))}


def _first_new(ledger: Ledger, limit: int) -> tuple[Trace, ...]:
    """The first rows that were kept and are no seeds."""
    new = (row for row in ledger.kept.traces() if row.source != "seed")
    return tuple(islice(new, limit))


def _result(
    task: Task,
    ledger: Ledger,
    made: RunFacts,
    version: DatasetVersion | None,
    *,
    preview: tuple[Trace, ...] = (),
) -> SynthesisResult:
    total, spent = ledger.accounts.total(), made.spent
    return SynthesisResult(
        wanted=task.wanted,
        requested=total.requested,
        kept=total.kept,
        rejected=dict(total.rejected.most_common()),
        failed=dict(total.failed.most_common()),
        by_cell=ledger.accounts.cells,
        calls={"made": spent.made, "reused": spent.reused, "retried": spent.retried},
        usage=spent.usage,
        cost_usd=spent.cost_usd,
        dataset=version,
        stopped_because=made.stopped_because,
        blind_check=made.check,
        preview=preview,
    )
