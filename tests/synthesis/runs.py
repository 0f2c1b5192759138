"""Runs of synthesis on the task of `writer.py`, in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from nanodistill.config import DistillationConfig
from nanodistill.events import Event, Notice
from nanodistill.providers.base import Provider
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.synthesis import SynthesisResult, synthesize
from nanodistill.types import Trace
from synthesis.writer import INSTRUCTION, SEEDS, Writer

CHAT: dict[str, Any] = {
    "generation": "chat",
    "thinking_format": "none",
    "extract_policy": False,
    "check_seeds": False,
}
"""What the quickstart sets for a small teacher."""


def config_in(folder: Path, **fields: Any) -> DistillationConfig:
    values: dict[str, Any] = {
        "name": "run",
        "seed": SEEDS,
        "instruction": INSTRUCTION,
        "teacher": "python:synthesis.writer:Writer",
        "augment_factor": 6,
        "examples_per_call": 5,
        "output_dir": folder,
    }
    return DistillationConfig(**(values | fields))


def run(config: DistillationConfig, teacher: Writer | Provider, **options: Any) -> SynthesisResult:
    """One run of synthesis, whose accounts are seen to add up."""
    provider = ScriptedProvider(teacher) if isinstance(teacher, Writer) else teacher

    async def work() -> SynthesisResult:
        return await synthesize(config, provider=provider, **options)

    result = anyio.run(work)
    assert_adds_up(result)
    return result


def assert_adds_up(result: SynthesisResult) -> None:
    lost = sum(result.rejected.values()) + sum(result.failed.values())
    assert result.requested == result.kept + lost
    assert all(tally.under_way == 0 for tally in result.by_cell.values())


def rows_of(result: SynthesisResult, *splits: str) -> list[dict[str, Any]]:
    """Rows of the version that was made; of train and valid, if not said otherwise."""
    assert result.dataset is not None
    chosen = splits or ("train", "valid")
    return [row for split in chosen for row in result.dataset.rows(split)]  # type: ignore[arg-type]


def rejected_of(result: SynthesisResult, reason: str) -> list[dict[str, Any]]:
    assert result.dataset is not None
    return [row for row in result.dataset.rejected() if row["reason"] == reason]


def notes_of(result: SynthesisResult) -> str:
    assert result.dataset is not None
    return "\n".join(result.dataset.manifest.notes)


class Notices:
    """A listener that keeps the sentences."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.texts.append(event.text)


def inputs(rows: list[Trace]) -> list[str]:
    return [row.input for row in rows]


judge = Writer()
"""A judge for runs that name one: `python:synthesis.runs:judge`."""
