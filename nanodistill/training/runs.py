"""The folders of training runs.

    training/index.json         the runs in order of their start, and which is latest
    training/<run id>/
        config.json             what is trained and how, everything resolved
        job.json                all that the child needs to know
        rows.npz                the rows as tokens
        mlx_lm.yaml             the same run for `mlx_lm lora -c FILE --train --data FOLDER`
        metrics.jsonl           the record; see metrics.py
        checkpoints/            see checkpoints.py
        adapters/               the best weights so far, as mlx_lm loads them
        log.txt                 what the child wrote
        adjusted.json           what the supervisor changed after running out of memory
        outcome.json            how the child ended
        result.json             of a finished run

Equal data, settings and student have the same run id: a finished run found again
is finished work, an unfinished one goes on, and a change is a new run beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from nanodistill.run_dir import RunFolder, checked, read_json, safe_name, write_json

T = TypeVar("T")
ANEW = "Remove it: the next training run writes it anew."


@dataclass(frozen=True)
class TrainingFolder:
    """Paths of one training run."""

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
    """What the index says of a run."""

    run: Annotated[str, AfterValidator(safe_name)]
    dataset: Annotated[str, AfterValidator(safe_name)]
    dataset_fingerprint: str
    student: str
    student_identity: str
    train_on: str

    def to_json(self) -> dict[str, str]:
        return dict(vars(self))


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
    """The runs, the latest last.

    Raises:
        CorruptFileError: the index does not list runs.
    """
    return _entries(run, list[RunEntry])


def list_runs(run: RunFolder) -> list[ListedRun]:
    """The same runs, for a reader that only shows them."""
    return _entries(run, list[ListedRun])


def _entries(run: RunFolder, kind: type[list[T]]) -> list[T]:
    path = index_path(run)
    if not path.exists():
        return []
    return checked(path, read_json(path).get("runs"), kind, next_step=ANEW)


def latest_run(run: RunFolder) -> tuple[RunEntry, TrainingFolder] | None:
    """The run that was trained last."""
    entries = read_index(run)
    return (entries[-1], training_folder(run, entries[-1].run)) if entries else None


def make_latest(run: RunFolder, entry: RunEntry) -> None:
    """Put `entry` at the end of the index."""
    entries = read_index(run)
    if entries[-1:] == [entry]:
        return
    others = [other for other in entries if other.run != entry.run]
    runs: list[dict[str, Any]] = [e.to_json() for e in (*others, entry)]
    write_json(index_path(run), {"latest": entry.run, "runs": runs})
