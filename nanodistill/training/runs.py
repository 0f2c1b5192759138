"""The folders of training runs.

    training/index.json         all runs in the order they were trained, and the latest
    training/<run id>/
        config.json             what is trained and how, fully resolved
        job.json                everything the training process needs to know
        rows.npz                the rows as tokens
        mlx_lm.yaml             the same run for `mlx_lm lora -c FILE --train --data FOLDER`
        metrics.jsonl           the record; see metrics_log.py
        checkpoints/            see checkpoints.py
        adapters/               the best weights so far, as mlx_lm loads them
        log.txt                 the training process's output
        adjusted.json           what was changed after running out of memory
        outcome.json            how the training process ended
        result.json             of a finished run

Equal data, settings and student give the same run id: a finished run is not trained
again, an unfinished one is resumed, and a change makes a new run beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from nanodistill.run_dir import RunFolder, checked, read_json, safe_name, write_json

T = TypeVar("T")
REBUILT = "Delete it: the next training run writes it again."


@dataclass(frozen=True)
class TrainingFolder:
    """The paths of one training run."""

    root: Path

    @property
    def id(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def rows(self) -> Path:
        return self.root / "rows.npz"

    @property
    def yaml(self) -> Path:
        return self.root / "mlx_lm.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.root / "adapters"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def lock(self) -> Path:
        return self.root / ".child.lock"

    @property
    def adjusted(self) -> Path:
        return self.root / "adjusted.json"

    @property
    def outcome(self) -> Path:
        return self.root / "outcome.json"

    @property
    def result(self) -> Path:
        return self.root / "result.json"


@dataclass(frozen=True)
class RunEntry:
    """A run in the index."""

    run: Annotated[str, AfterValidator(safe_name)]
    dataset: Annotated[str, AfterValidator(safe_name)]
    dataset_fingerprint: str
    student: str
    student_identity: str
    train_on: str


@dataclass(frozen=True)
class ListedRun:
    """What `status` shows of an entry."""

    run: Annotated[str, AfterValidator(safe_name)]
    dataset: str
    student: str


def training_folder(run: RunFolder, run_id: str) -> TrainingFolder:
    return TrainingFolder(run.training / run_id)


def index_path(run: RunFolder) -> Path:
    return run.training / "index.json"


def read_index(run: RunFolder) -> list[RunEntry]:
    """All runs, the latest last.

    Raises:
        CorruptFileError: the index does not list runs.
    """
    return _entries(run, list[RunEntry])


def list_runs(run: RunFolder) -> list[ListedRun]:
    """All runs, the latest last, for a reader that only shows them."""
    return _entries(run, list[ListedRun])


def _entries(run: RunFolder, kind: type[list[T]]) -> list[T]:
    path = index_path(run)
    if not path.exists():
        return []
    return checked(path, read_json(path).get("runs"), kind, next_step=REBUILT)


def latest_run(run: RunFolder) -> tuple[RunEntry, TrainingFolder] | None:
    """The run that was trained last, if any."""
    entries = read_index(run)
    return (entries[-1], training_folder(run, entries[-1].run)) if entries else None


def make_latest(run: RunFolder, entry: RunEntry) -> None:
    """Move or add `entry` to the end of the index."""
    entries = read_index(run)
    if entries[-1:] == [entry]:
        return
    others = [other for other in entries if other.run != entry.run]
    runs = [asdict(each) for each in (*others, entry)]
    write_json(index_path(run), {"latest": entry.run, "runs": runs})
