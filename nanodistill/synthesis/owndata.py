"""Rows that the user brings instead of having them made: the same curation, no teacher."""

from __future__ import annotations

from dataclasses import replace

from nanodistill.curation.sieve import Sieve
from nanodistill.events import Listener, Notice
from nanodistill.records import Rejection, Seed, Source, Trace
from nanodistill.synthesis.ledger import Ledger
from nanodistill.synthesis.steps import Seen, row_steps
from nanodistill.synthesis.task import Task
from nanodistill.thinking import FORMATS


def curate_own_rows(task: Task, ledger: Ledger, listen: Listener) -> Task:
    """Put seeds and own rows through the steps, and return the task as it is with them.

    Where no row has thinking there is none to learn, and the thinking format is `none`.
    """
    if task.thinks and not any(row.thinking for row in (*task.seeds, *task.given)):
        listen(Notice("No row has thinking, so the thinking format is none."))
        task = replace(task, form=FORMATS["none"])
    sieve = Sieve([*Seen.of(task).steps(), *row_steps(task)], ledger.steps)
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


def place(row: Trace, sieve: Sieve, ledger: Ledger) -> None:
    """Count a row in and put it where it ends."""
    ledger.request(row.cell)
    end = sieve(row)
    if isinstance(end, Rejection):
        ledger.reject(end)
    else:
        ledger.keep(end)
