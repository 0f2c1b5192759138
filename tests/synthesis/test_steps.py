"""Which steps a run has: those that its own seeds would pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.events import ignore
from nanodistill.synthesis.row_filters import DedupState, input_filters, row_filters
from nanodistill.synthesis.task import load_task
from synthesis.runs import CHAT, config_in

ALL = ["text", "tidy", "refusals", "assistant's voice", "loops", "leaks"]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("Where is my parcel?", None),
        ("Question: where is my parcel?", "tidy"),
        ("I'm sorry, but I'm unable to assist you.", "refusals"),
        ("How can I help you with your loan?", "assistant's voice"),
        ("GET /index 200 ok GET /index 200 ok GET /index 200 ok", "loops"),
        ("Category: bug. It crashes.", "leaks"),
    ],
)
def test_a_habit_of_the_seeds_is_no_fault(tmp_path: Path, text: str, missing: str | None) -> None:
    seeds = [{"input": f"{text} Number {n}.", "output": "ab"[n % 2]} for n in range(4)]
    seeds.append({"input": text, "output": "bug"})
    labels = ["a", "b", "bug"]
    task = load_task(config_in(tmp_path, **CHAT, seed=seeds, labels=labels), ignore)
    names = [step.name for step in input_filters(task, DedupState.of(task))]
    assert names[:-3] == [name for name in ALL if name != missing]
    assert names[-3:] == ["length", "contamination", "duplicates"]
    assert [step.name for step in row_filters(task)] == [
        "output",
        "text",
        "label in set",
        "renderable",
    ]
