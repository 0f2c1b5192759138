"""What the teacher was asked and what that cost, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

from nanodistill.dataset.manifest import Manifest
from nanodistill.journal import Sums, read_journal
from nanodistill.reporting.sheets import (
    UNKNOWN,
    Cell,
    Sheet,
    dollars,
    facts,
    in_minutes,
    number,
    text,
)
from nanodistill.runfolder import RunFolder

COLUMNS = (
    "stage", "calls", "answered", "told to wait", "failed", "retried", "mended", "tokens in",
    "tokens out", "cost", "time a call",
)  # fmt: skip


@dataclass(frozen=True)
class Spend:
    """`total` in words; `sheet` by stage; `answers` of the teacher, None where not known."""

    total: str
    sheet: Sheet
    answers: int | None


def spend(run: RunFolder, manifest: Manifest | None) -> Spend | None:
    """From the run's journal; where the data came from elsewhere, from its manifest.

    Raises:
        DamagedFile: the journal can't be read.
    """
    if run.journal.exists():
        with read_journal(run.journal) as journal:
            stages = journal.sums()
        return _of_journal(stages) if stages else None
    return _of_manifest(manifest) if manifest and manifest.teacher else None


def _of_journal(stages: dict[str, Sums]) -> Spend:
    total = sum(stages.values(), Sums())
    every = {**stages, "in all": total} if len(stages) > 1 else stages
    rows = tuple(_row(stage, sums) for stage, sums in every.items())
    sheet = Sheet("Teacher calls of this run, from its journal", COLUMNS, rows, _note(total))
    return Spend(dollars(total.known_cost), sheet, total.answered)


def _note(total: Sums) -> str:
    if not total.unpriced:
        return ""
    unpriced = f"The price of {total.unpriced:,} of {total.answered:,} answers is not known"
    return (
        f"{unpriced}; the others cost {dollars(total.cost_usd)}."
        if total.cost_usd
        else f"{unpriced}."
    )


def _row(stage: str, sums: Sums) -> tuple[Cell, ...]:
    # A teacher that counts no tokens (a function) is not one that used none.
    counted = sums.usage.total_tokens > 0 or sums.answered == 0
    return (
        text(stage),
        number(sums.calls),
        number(sums.answered),
        number(sums.refused),
        number(sums.failed),
        number(sums.retries),
        number(sums.repairs + sums.longer),
        number(sums.usage.prompt_tokens if counted else None),
        number(sums.usage.completion_tokens if counted else None),
        Cell(dollars(sums.known_cost), "number"),
        Cell(in_minutes(sums.seconds / sums.calls) if sums.calls else "–", "number"),
    )


def _of_manifest(manifest: Manifest) -> Spend:
    usage, calls = manifest.usage, manifest.calls
    counted = usage if usage and usage.prompt_tokens + usage.completion_tokens else None
    rows = [
        ("calls made", number(calls.made if calls else None)),
        ("calls reused", number(calls.reused if calls else None)),
        ("tokens in", number(counted.prompt_tokens if counted else None)),
        ("tokens out", number(counted.completion_tokens if counted else None)),
        ("cost", text(dollars(manifest.cost_usd) if manifest.cost_usd is not None else UNKNOWN)),
    ]
    sheet = facts("Teacher calls behind the dataset, as its manifest tells", rows)
    return Spend(dollars(manifest.cost_usd), sheet, calls.made if calls else None)
