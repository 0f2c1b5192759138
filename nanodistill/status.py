"""Where a run stands: what is done, what it cost, and which command comes next.

Reads what the stages wrote and changes nothing, so it can run in another terminal meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.console import duration, shown_value
from nanodistill.dataset.read import current_index
from nanodistill.evaluation.results import RESULTS, read_results
from nanodistill.events import Table
from nanodistill.formatting import dollars
from nanodistill.journal import UsageTotals, read_journal
from nanodistill.run_dir import RunFolder, bytes_in
from nanodistill.training.metrics_log import progress_snapshot
from nanodistill.training.runs import list_runs, training_folder

HALVES = {"synth": "synthesis", "train": "training", "eval": "evaluation"}


@dataclass(frozen=True)
class Status:
    """What `nanodistill status` shows. Sizes in bytes, costs in USD (None: not known)."""

    folder: Path
    working: tuple[str, ...]
    stages: dict[str, UsageTotals]
    versions: tuple[dict[str, Any], ...]
    trainings: tuple[dict[str, Any], ...]
    evaluations: tuple[dict[str, Any], ...]
    disk: dict[str, int]
    next: str

    @property
    def spent(self) -> UsageTotals:
        return sum(self.stages.values(), UsageTotals())

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "working": list(self.working),
            "calls": {stage: _sums_json(sums) for stage, sums in self.stages.items()},
            "cost_usd": self.spent.known_cost,
            "datasets": list(self.versions),
            "training": list(self.trainings),
            "evaluation": list(self.evaluations),
            "disk": self.disk,
        }

    def tables(self) -> Iterable[Table]:
        """The parts that there are, each as a table."""
        if self.stages:
            yield _calls_table(self.stages)
        if self.versions:
            yield _table("Dataset versions", self.versions)
        if self.trainings:
            yield _table("Training runs", tuple(map(_training_line, self.trainings)))
        if self.evaluations:
            yield _table("Evaluations", self.evaluations)
        yield Table("Disk", ("part", "size"), tuple((k, size(n)) for k, n in self.disk.items()))

    def summary(self) -> str:
        now = f"{self.folder}: {', '.join(self.working)} in progress." if self.working else ""
        return now or f"{self.folder}: nothing in progress."


def status_of(config: DistillationConfig, then: Callable[[str], str]) -> Status:
    """The state of the run that `config` describes; `then` makes the line that calls a command.

    Raises:
        CorruptFileError: one of the run's files can't be read.
    """
    run = RunFolder(config.run_folder)
    versions = tuple(_version(entry) for entry in current_index(run).versions)
    trainings = tuple(_trainings(run))
    evaluations = tuple(_evaluations(run))
    return Status(
        folder=run.root,
        working=tuple(name for half, name in HALVES.items() if run.is_locked(half)),
        stages=_stages(run),
        versions=versions,
        trainings=trainings,
        evaluations=evaluations,
        disk=_disk(run),
        next=_next(then, bool(versions), trainings, bool(evaluations)),
    )


def _stages(run: RunFolder) -> dict[str, UsageTotals]:
    if not run.journal.exists():
        return {}
    with read_journal(run.journal) as journal:
        return journal.sums()


def _version(entry: Any) -> dict[str, Any]:
    counts = entry.counts.model_dump()
    rejected = {"rejected": sum(counts["rejected"].values())}
    return {"version": entry.name, **counts, **rejected, "made": entry.created}


def _trainings(run: RunFolder) -> Iterable[dict[str, Any]]:
    entries = list_runs(run)
    for entry in entries:
        folder = training_folder(run, entry.run)
        going_on = run.is_locked("train") and entry == entries[-1]
        unfinished = "training" if going_on else "unfinished"
        yield {
            "run": entry.run,
            "dataset": entry.dataset,
            "student": entry.student,
            "state": "ended" if folder.result.exists() else unfinished,
            **vars(progress_snapshot(folder.metrics)),
        }


def _training_line(training: dict[str, Any]) -> dict[str, Any]:
    """A training run for a person to read."""
    far = {"updates": f"{training['update']} of {training['total'] or '?'}"}
    figures = {name: shown_value(training[name]) for name in ("loss", "valid")}
    left = training["seconds_left"]
    told = duration(left) if left is not None and training["state"] == "training" else "-"
    named = {name: training[name] for name in ("run", "dataset", "student", "state")}
    return named | far | figures | {"time left": told}


def _evaluations(run: RunFolder) -> Iterable[dict[str, Any]]:
    for results in sorted(run.evaluation.glob(f"*/{RESULTS}")):
        found = read_results(results.parent)
        models = {name: f"{score['value']:.1%}" for name, score in found["models"].items()}
        yield {"run": results.parent.name, "rows": found["n"], "on": found["on"], **models}


def _disk(run: RunFolder) -> dict[str, int]:
    if not run.root.exists():
        return {}
    parts = sorted(path for path in run.root.iterdir() if not path.name.startswith("."))
    return {path.name: bytes_in(path) for path in parts}


def _next(
    then: Callable[[str], str],
    dataset: bool,
    trainings: tuple[dict[str, Any], ...],
    evaluated: bool,
) -> str:
    if not dataset:
        return then("synth")
    if not trainings or trainings[-1]["state"] != "ended":
        return then("train")
    return f'{then("ask")} "…"' if evaluated else then("eval")


def size(n: float) -> str:
    """Bytes for a person: `812 B`, `1.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def _sums_json(sums: UsageTotals) -> dict[str, Any]:
    return {
        "made": sums.calls,
        "answered": sums.answered,
        "refused": sums.refused,
        "failed": sums.failed,
        "retried": sums.retries,
        "repaired": sums.repairs,
        "longer": sums.longer,
        "prompt_tokens": sums.usage.prompt_tokens,
        "completion_tokens": sums.usage.completion_tokens,
        "cached_tokens": sums.usage.cached_tokens,
        "reasoning_tokens": sums.usage.reasoning_tokens,
        "cost_usd": sums.known_cost,
        "seconds": sums.seconds,
    }


CALL_COLUMNS = ("stage", "calls", "answered", "refused", "failed", "retried", "mended")


def _calls_table(stages: dict[str, UsageTotals]) -> Table:
    every = {**stages, "in all": sum(stages.values(), UsageTotals())} if len(stages) > 1 else stages
    rows = tuple(
        (
            stage,
            *map(str, (s.calls, s.answered, s.refused, s.failed, s.retries, s.repairs + s.longer)),
            f"{s.usage.prompt_tokens:,} + {s.usage.completion_tokens:,}",
            dollars(s.known_cost),
            f"{s.seconds / s.calls:.1f} s" if s.calls else "-",
        )
        for stage, s in every.items()
    )
    return Table("Teacher calls", (*CALL_COLUMNS, "tokens in + out", "cost", "latency"), rows)


def _table(title: str, records: tuple[dict[str, Any], ...]) -> Table:
    columns = tuple(dict.fromkeys(key for record in records for key in record))
    return Table(title, columns, tuple(tuple(str(r.get(c, "")) for c in columns) for r in records))
