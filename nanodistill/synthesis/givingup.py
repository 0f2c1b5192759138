"""Calls that a finished run did without.

A call that failed too often in a session leaves no answer in the journal, so
another session would ask it again. As long as rows are wanted that is right. A
run that has got its rows elsewhere is finished: asking would cost money and
make another dataset of the same configuration. So the end of a run notes in
the journal what it did without, and the same run again leaves it at that. With
other settings or inputs it is another run, and asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple

from nanodistill.dataset import config_hash
from nanodistill.journal import Journal
from nanodistill.records import tagged_hash
from nanodistill.synthesis.task import Task
from nanodistill.teacher.chains import Lost

NOTE = "done without"


def give_up(journal: Journal, task: Task, lost: Mapping[str, Lost], stopped: str) -> None:
    """Note what a run that is complete did without; one that is not wants it still."""
    if lost or journal.note(NOTE) is not None:
        kept = {key: astuple(why) for key, why in lost.items()} if stopped == "complete" else {}
        journal.keep_note(NOTE, json.dumps({"run": _identity(task), "lost": kept}))


def given_up(journal: Journal, task: Task) -> dict[str, Lost]:
    """What this very run did without when it was complete."""
    note = journal.note(NOTE)
    if note is None:
        return {}
    held = json.loads(note)
    if held["run"] != _identity(task):
        return {}
    return {key: Lost(*why) for key, why in held["lost"].items()}


def _identity(task: Task) -> str:
    rows = [[row.id for row in some] for some in (task.seeds, task.test)]
    return tagged_hash("nanodistill.run.v1", [config_hash(task.config), rows])
