"""Where the adapter to be judged comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanodistill.errors import InputError
from nanodistill.records import tagged_hash
from nanodistill.runfolder import RunFolder, read_json


@dataclass(frozen=True)
class Trained:
    """An adapter, and the training run that made it or a name in the place of one."""

    run: str
    adapter: Path


def latest_trained(run: RunFolder) -> Trained:
    """The adapter of the run's latest training.

    Raises:
        InputError: nothing was trained yet, or training has not ended.
    """
    index = run.training / "index.json"
    if not index.exists():
        raise InputError(
            f"{run.root} holds no trained student yet.",
            next_step="Train one first: nanodistill train RUN.toml",
        )
    name = read_json(index)["latest"]
    adapter = run.training / name / "adapters"
    if not (adapter / "adapters.safetensors").is_file():
        raise InputError(
            f"training run {name} has written no adapter yet.",
            next_step="Let it end first: nanodistill train RUN.toml goes on where it stopped.",
        )
    return Trained(name, adapter)


def trained_at(adapter: Path, run: RunFolder, identity: str) -> Trained:
    """An adapter that was named: of one of the run's trainings, or from anywhere."""
    if adapter.resolve().parent.parent == run.training.resolve():
        return Trained(adapter.resolve().parent.name, adapter)
    return Trained(named_run(adapter.name, identity), adapter)


def named_run(name: str, identity: str) -> str:
    """A folder name for the results of a model that no training run of ours made."""
    stem = Path(name.rstrip("/")).name or "model"
    return f"{stem}-{tagged_hash('nanodistill.evaluated.v1', identity)[:8]}"
