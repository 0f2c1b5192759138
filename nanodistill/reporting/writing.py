"""Writing report.html: gathered, cleaned, rendered, replaced whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.reporting.page import render
from nanodistill.reporting.privacy import Privacy
from nanodistill.reporting.story import Story, gather
from nanodistill.runfolder import RunFolder, write_atomic


@dataclass(frozen=True)
class Report:
    """Where the report lies and what it says first. `parts` are those that it has."""

    path: Path
    verdict: str
    parts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"report": str(self.path), "verdict": self.verdict, "parts": list(self.parts)}

    def summary(self) -> str:
        return f"{self.verdict}\nReport in {self.path}"


def write_report(config: DistillationConfig, run: RunFolder) -> Report:
    """Write `run`'s report.html with what there is.

    Raises:
        InputError: nothing was done in the run yet.
        DamagedFile: one of the run's files can't be read.
    """
    story = gather(config, run)
    told: dict[str, Any] = Privacy.of(config).clean(asdict(story))
    page = render(told, _data(told))
    write_atomic(run.report, page.encode("utf-8", "replace"))
    return Report(run.report, told["headline"]["verdict"], _parts(story))


def _data(told: dict[str, Any]) -> dict[str, Any]:
    """What the script needs: the curves and the rows."""
    curves = {training["run"]: training["curves"] for training in told["trainings"]}
    return {"curves": curves, "rows": told["rows"]}


def _parts(story: Story) -> tuple[str, ...]:
    there = {
        "scores": story.scores,
        "rows": story.rows,
        "training": story.trainings,
        "dataset": story.dataset,
        "spend": story.spend,
    }
    return tuple(name for name, part in there.items() if part)
