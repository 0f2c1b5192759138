"""Rows that the user brings instead of having them made: the same curation, no teacher."""

from __future__ import annotations

from dataclasses import replace

from nanodistill.curation.filter_pipeline import FilterPipeline
from nanodistill.events import Listener, Notice
from nanodistill.synthesis.ledger import Ledger
from nanodistill.synthesis.row_filters import DedupState, row_filters
from nanodistill.synthesis.task import Task
from nanodistill.thinking import FORMATS
from nanodistill.types import Rejection, Seed, Source, Trace


def curate_user_rows(task: Task, ledger: Ledger, on_event: Listener) -> Task:
    """Put seeds and own rows through the steps, and return the task as it is with them.

    Where no row has thinking there is none to learn, and the thinking format is `none`.
    """
    if task.thinks and not any(row.thinking for row in (*task.seeds, *task.given)):
        on_event(Notice("No row has thinking, so the thinking format is none."))
        task = replace(task, form=FORMATS["none"])
    sieve = FilterPipeline([*DedupState.of(task).steps(), *row_filters(task)], ledger.steps)
    for seed in task.seeds:
        place(as_trace(seed, "seed", task), sieve, ledger)
    for row in task.given:
        place(as_trace(row, "user", task), sieve, ledger)
    return task


def as_trace(row: Seed, source: Source, task: Task) -> Trace:
    thinking = row.thinking if task.thinks else None
    ids = (row.id,) if source == "seed" else ()
    return Trace(
        row.input,
        row.output,
        source,
        thinking=thinking,
        seed_ids=ids,
        thinking_from="user" if thinking else None,
    )


def place(row: Trace, sieve: FilterPipeline, ledger: Ledger) -> None:
    """Count a row in and put it where it ends."""
    ledger.request(row.cell)
    end = sieve(row)
    if isinstance(end, Rejection):
        ledger.reject(end)
    else:
        ledger.keep(end)
