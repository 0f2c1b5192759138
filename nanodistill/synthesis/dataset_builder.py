"""From a run's ledger to a dataset version: the split, the test rows, and what is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nanodistill.curation.split import SplitAssignment, SplitRow, split_rows
from nanodistill.dataset import (
    Agreement,
    Calls,
    CellCount,
    DatasetVersion,
    InputFacts,
    SplitFacts,
    StageCount,
    TokenUsage,
    VersionDraft,
    VersionFacts,
    config_hash,
    public_config,
    write_version,
)
from nanodistill.errors import TooFewRowsError
from nanodistill.run_dir import RunFolder
from nanodistill.seeds import describe_input
from nanodistill.stats import wilson
from nanodistill.synthesis.ledger import Ledger
from nanodistill.synthesis.policy import TaskPolicy
from nanodistill.synthesis.seed_agreement import SeedAgreement
from nanodistill.synthesis.task import Task
from nanodistill.thinking import FORMATS
from nanodistill.types import Source, Split, Trace, Usage

OUTSIDE = "outside the plan"


@dataclass(frozen=True)
class RunCost:
    """What a session's calls came to. `cost_usd` is None where a price is unknown."""

    made: int = 0
    reused: int = 0
    retried: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """All that a version's manifest says of how it was made."""

    policy: TaskPolicy | None
    check: SeedAgreement | None
    prompts: Mapping[str, str]
    spent: RunCost
    stopped_because: str
    cues: tuple[str, ...] = ()


def write_dataset(run: RunFolder, task: Task, ledger: Ledger, made: RunFacts) -> DatasetVersion:
    """Write the ledger's rows as the run's version. Blocks.

    Raises:
        TooFewRowsError: fewer than `min_rows` were kept.
    """
    _check_enough(task, ledger)
    sides = split_rows(
        [_member(row, task) for row in ledger.kept.traces()],
        val_split=task.config.val_split,
        random_seed=task.config.random_seed,
    )
    draft = VersionDraft(
        rows=_rows(task, ledger, sides),
        rejected=ledger.rejected.rejections(),
        shape=task.form,
        facts=_facts(task, ledger, sides, made),
    )
    return write_version(run, draft)


def _check_enough(task: Task, ledger: Ledger) -> None:
    """Seeds are not counted where the teacher makes rows, unless it is to make fewer than that."""
    total, least = ledger.accounts.total(), task.config.min_rows
    seeds = 0
    if task.config.training_data is None:
        seeds = sum(row.source == "seed" for row in ledger.kept.traces())
        new_wanted = max(0, task.wanted - seeds)
        least = least if new_wanted >= least else min(1, new_wanted)
    if total.kept - seeds >= least:
        return
    lost = ledger.lost().most_common()
    told = ", ".join(f"{reason} {n}" for reason, n in lost) or "none"
    words = f" {lost[0][0]}: {ledger.words[lost[0][0]]}" if lost else ""
    beside = f", besides {seeds} seeds," if seeds else ""
    raise TooFewRowsError(
        f"{total.kept - seeds} rows were kept of {total.requested} requested{beside} and min_rows "
        f"is {task.config.min_rows}. Lost: {told}.{words}",
        next_step="Look at a preview (synth --limit 20), mend the instruction or the seeds, or "
        "lower min_rows. No call is bought twice.",
    )


def _member(row: Trace, task: Task) -> SplitRow:
    """A row with the generation call that it came from, its label and its cell."""
    label = row.output if task.labels else ""
    return SplitRow(row.id, row.source, row.request_keys[:1], label, row.cell)


def _rows(task: Task, ledger: Ledger, sides: SplitAssignment) -> Iterator[tuple[Split, Trace]]:
    for row in ledger.kept.traces():
        yield sides.split_of[row.id], row
    source: Source = "seed" if task.config.test is None else "user"
    for test in task.test:
        yield "test", Trace(test.input, test.output, source, thinking=test.thinking)


def _facts(task: Task, ledger: Ledger, sides: SplitAssignment, made: RunFacts) -> VersionFacts:
    config, total = task.config, ledger.accounts.total()
    asked = config.training_data is None
    return VersionFacts(
        instruction=task.instruction,
        thinking_format=_format_name(task),
        made_by="synthesis" if asked else "training_data",
        labels=task.labels or None,
        response_schema=task.response.schema if task.response else None,
        response_model=config.to_json()["response_model"],
        teacher=config.teacher if asked else None,
        config=public_config(config),
        config_hash=config_hash(config),
        inputs=describe_inputs(task),
        test_source=_test_source(task),
        prompts=dict(made.prompts),
        policy=made.policy.model_dump() if made.policy else None,
        agreement=_agreement(made.check),
        recheck=_recheck(ledger),
        cues=made.cues,
        wanted=task.wanted,
        requested=total.requested,
        failed=dict(sorted(total.failed.items())),
        cells=_cells(ledger),
        stages=_stages(ledger),
        split=SplitFacts(
            val_split=config.val_split,
            random_seed=config.random_seed,
            groups=sides.groups,
            valid_groups=sides.valid_groups,
        ),
        calls=_calls(made.spent) if asked else None,
        usage=_usage(made.spent) if asked else None,
        cost_usd=made.spent.cost_usd,
        stopped_because=made.stopped_because,
        notes=_notes(task, ledger),
    )


def _format_name(task: Task) -> str:
    """The name of the format that rows really have, which need not be the one asked for."""
    ours = [name for name, form in FORMATS.items() if form is task.form]
    name: str = ours[0] if ours else task.config.to_json()["thinking_format"]
    return name


def describe_inputs(task: Task) -> dict[Literal["seed", "test", "training_data"], InputFacts]:
    config = task.config
    inputs: dict[Literal["seed", "test", "training_data"], InputFacts] = {
        "seed": describe_input(config.seed, task.seeds)
    }
    if config.test is not None:
        inputs["test"] = describe_input(config.test, task.test)
    if config.training_data is not None:
        inputs["training_data"] = describe_input(config.training_data, task.given)
    return inputs


def _test_source(task: Task) -> Literal["user", "holdout_seeds"] | None:
    if not task.test:
        return None
    return "user" if task.config.test is not None else "holdout_seeds"


def _agreement(check: SeedAgreement | None) -> Agreement | None:
    if check is None:
        return None
    share = wilson(check.agreed, check.of)
    return Agreement(agreed=check.agreed, of=check.of, low=share.low, high=share.high)


def _recheck(ledger: Ledger) -> Agreement | None:
    """How many rows got the same answer twice: one minus the measured label noise."""
    counts = ledger.recheck
    if not counts.of:
        return None
    share = wilson(counts.agreed, counts.of)
    return Agreement(agreed=counts.agreed, of=counts.of, low=share.low, high=share.high)


def _cells(ledger: Ledger) -> dict[str, CellCount]:
    return {
        cell or OUTSIDE: CellCount(
            requested=tally.requested,
            kept=tally.kept,
            rejected=dict(sorted(tally.rejected.items())),
            failed=dict(sorted(tally.failed.items())),
        )
        for cell, tally in sorted(ledger.accounts.cells.items())
    }


def _stages(ledger: Ledger) -> tuple[StageCount, ...]:
    steps = ledger.steps
    return tuple(
        StageCount(stage=name, reached=rows, refused=steps.dropped[name].total())
        for name, rows in steps.reached.items()
        if rows
    )


def _calls(spent: RunCost) -> Calls:
    return Calls(made=spent.made, reused=spent.reused, retried=spent.retried)


def _usage(spent: RunCost) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=spent.usage.prompt_tokens, completion_tokens=spent.usage.completion_tokens
    )


def _notes(task: Task, ledger: Ledger) -> tuple[str, ...]:
    origins: Counter[str | None] = Counter()
    made = 0
    for row in ledger.kept.traces():
        origins[row.thinking_from] += 1
        made += row.source == "synthetic"
    notes = (
        [_on_labels(task, made, ledger)] if made and task.labels and not task.asks_answers else []
    )
    if origins.get("rationalized"):
        notes.append(
            f"{origins['rationalized']} rows have thinking that was written with the answer in "
            "sight, because the teacher did not find the seed's own answer."
        )
    if origins.get("native"):
        notes.append(f"{origins['native']} rows have the teacher's own reasoning as thinking.")
    if not task.test:
        notes.append("There is no test split: scores are on the validation split.")
    return tuple(notes)


def _on_labels(task: Task, made: int, ledger: Ledger) -> str:
    """Where labels come from that no answer of the teacher stands behind."""
    source = "the teacher gave with them" if task.generates_outputs else "they were written for"
    checked = ledger.recheck.of
    if checked:
        return (
            f"{made} generated rows have the label {source}. The teacher read {checked} rows "
            f"again, blind, and gave {ledger.recheck.agreed} of them the same label; see recheck."
        )
    return f"{made} generated rows have the label {source}; none was checked (recheck is off)."
