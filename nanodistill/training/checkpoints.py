"""Checkpoints: everything that resuming needs, written completely or not at all.

    checkpoints/0000120/    after 120 updates
        adapter.safetensors     the trained weights
        optimizer.safetensors   moments, step, learning rate
        state.json              progress, settings, and hashes of the two files

A checkpoint is written under a temporary name, synced and renamed, so a crash leaves
the one before. The last two and the best are kept. One that does not match its hashes
is skipped for the one before. One of other data or settings is an error: somebody put
it there by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from nanodistill.errors import CorruptFileError, DiskFullError, FolderError
from nanodistill.run_dir import sync_folder
from nanodistill.training.training_options import NON_IDENTITY_FIELDS

KEPT = 2  # the latest, and one before it in case the latest is damaged
FULL_BELOW = 64 << 20  # bytes free at which a failed write is blamed on a full disk
STATE, ADAPTER, OPTIMIZER = "state.json", "adapter.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Validation:
    """The result of a validation after `update` updates; `score` only if runs are scored."""

    update: int
    loss: float
    score: float | None = None


@dataclass
class State:
    """A run's progress: everything that resuming needs besides weights and optimizer.

    `rate` is the factor on the learning rate, below 1 after a roll-back.
    """

    update: int = 0
    rate: float = 1.0
    rollbacks: int = 0
    validations: list[Validation] = field(default_factory=list)
    best: Validation | None = None
    first_loss: float | None = None
    smoothed_loss: float | None = None
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> State:
        best = value["best"]
        parts = {
            "validations": [Validation(**item) for item in value["validations"]],
            "best": None if best is None else Validation(**best),
        }
        return cls(**{**value, **parts})


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: a hash of the rows' tokens, and the settings."""

    data: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    state: State
    machine: Mapping[str, Any]

    def adapter(self) -> dict[str, mx.array]:
        return _arrays(self.path / ADAPTER)

    def optimizer(self) -> dict[str, mx.array]:
        return _arrays(self.path / OPTIMIZER)


class Checkpoints:
    """The checkpoints of one run. `machine` is recorded because last bits depend on it."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._folder = folder
        self._identity = identity
        self.machine: Mapping[str, Any] = {}

    def write(
        self, state: State, adapter: Mapping[str, mx.array], optimizer: Mapping[str, mx.array]
    ) -> Path:
        """Write a checkpoint and delete those no longer kept. Durable on return.

        Raises:
            DiskFullError: no space left; earlier checkpoints are untouched.
        """
        target = self._folder / name_of(state.update)
        part = self._folder / f".{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            mx.save_safetensors(str(part / ADAPTER), dict(adapter))
            mx.save_safetensors(str(part / OPTIMIZER), dict(optimizer))
            value = {
                "state": asdict(state),
                "data": self._identity.data,
                "options": dict(self._identity.options),
                "machine": dict(self.machine),
                "files": {name: _sha256(part / name) for name in (ADAPTER, OPTIMIZER)},
            }
            (part / STATE).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            _publish(part, target)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(part, ignore_errors=True)
            # MLX raises RuntimeError for any failed write, so the disk itself is asked.
            existing = next(p for p in (self._folder, *self._folder.parents) if p.exists())
            if shutil.disk_usage(existing).free >= FULL_BELOW:
                raise
            raise DiskFullError(
                f"No space left on the disk of {self._folder} for a checkpoint.",
                next_step="Free some space and rerun the command to resume from the last "
                "checkpoint.",
            ) from error
        self._prune(state)
        return target

    def latest(self, damaged: list[Path] | None = None) -> Checkpoint | None:
        """The newest intact checkpoint; damaged ones are appended to `damaged`.

        Raises:
            FolderError: it belongs to other data or other settings.
        """
        for path in sorted(self._paths(), reverse=True):
            try:
                return self.read(path)
            except CorruptFileError:
                if damaged is not None:
                    damaged.append(path)
        return None

    def at(self, update: int) -> Checkpoint:
        return self.read(self._folder / name_of(update))

    def read(self, path: Path) -> Checkpoint:
        value = _read_state(path)
        try:
            for name in (ADAPTER, OPTIMIZER):
                if not (path / name).is_file() or _sha256(path / name) != value["files"][name]:
                    raise CorruptFileError(f"{path / name} does not match its checkpoint's hash.")
            self._check_identity(path, value)
            return Checkpoint(path, State.from_json(value["state"]), value["machine"])
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{path / STATE} is not a checkpoint's: {error!r}.") from error

    def _check_identity(self, path: Path, value: Mapping[str, Any]) -> None:
        mine = {"data": self._identity.data, **self._identity.options}
        its = {"data": value["data"], **value["options"]}
        keys = sorted((mine | its).keys() - NON_IDENTITY_FIELDS)
        differing = [key for key in keys if mine.get(key) != its.get(key)]
        if differing:
            shown = ", ".join(f"{k} ({its.get(k)} there, {mine.get(k)} here)" for k in differing)
            raise FolderError(
                f"{path} is a checkpoint of another run: {shown}.",
                next_step="Move it away. A run resumes only from its own checkpoints.",
            )

    def _paths(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.name.isdigit()]

    def _prune(self, state: State) -> None:
        """Delete all but the last ones and the best, and those from before a roll-back."""
        earlier = sorted(p.name for p in self._paths() if p.name <= name_of(state.update))
        kept = set(earlier[-KEPT:])
        if state.best is not None:
            kept.add(name_of(state.best.update))
        for path in self._paths():
            if path.name not in kept:
                shutil.rmtree(path)


def name_of(update: int) -> str:
    return f"{update:07d}"


def _publish(part: Path, target: Path) -> None:
    """Sync every file of `part`, then rename it to `target`."""
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(part)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
    sync_folder(target.parent)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{path / STATE} can't be read: {error}.") from error
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(path: Path) -> dict[str, mx.array]:
    arrays = mx.load(str(path))
    if not isinstance(arrays, dict):
        raise CorruptFileError(f"{path} does not hold named arrays.")
    return arrays
