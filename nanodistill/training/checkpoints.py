"""Checkpoints: all that going on needs, whole or not there at all.

    checkpoints/0000120/    after 120 updates
        adapter.safetensors     the trained weights
        optimizer.safetensors   moments, step, learning rate
        state.json              where the run stands, under what, and hashes of the two files

A checkpoint is written under another name, made durable, and renamed; a crash
leaves the one before. Kept are the last two and the best. One that does not
match its hashes is passed over for the one before it. One that belongs to other
data or settings is refused: its folder was put there by hand.
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

KEPT = 2
STATE, ADAPTER, OPTIMIZER = "state.json", "adapter.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Validation:
    """What a validation found after `update` updates. `value` is what "best" goes by."""

    update: int
    loss: float
    score: float | None = None


@dataclass
class State:
    """Where a run stands: everything that going on depends on besides weights and optimizer."""

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
        return cls(
            **{
                **value,
                "validations": [Validation(**item) for item in value["validations"]],
                "best": None if best is None else Validation(**best),
            }
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: the rows' tokens, and settings."""

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
    """The checkpoints of one run. `machine` is what their last bits depend on."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._folder = folder
        self._identity = identity
        self.machine: Mapping[str, Any] = {}

    def write(
        self, state: State, adapter: Mapping[str, mx.array], optimizer: Mapping[str, mx.array]
    ) -> Path:
        """Write a checkpoint and drop those no longer kept. Durable when this returns.

        Raises:
            DiskFullError: no room; the checkpoints that were there are untouched.
        """
        target = self._folder / name_of(state.update)
        part = self._folder / f".{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            mx.save_safetensors(str(part / ADAPTER), dict(adapter))
            mx.save_safetensors(str(part / OPTIMIZER), dict(optimizer))
            self._write_state(part, state)
            _replace(part, target)
        except (OSError, RuntimeError) as failed:
            shutil.rmtree(part, ignore_errors=True)
            if not is_full(self._folder):
                raise
            raise DiskFullError(
                f"There is no room left on the disk of {self._folder} for a checkpoint.",
                next_step="Make room and run the command again: it goes on from the one before.",
            ) from failed
        self._prune(state)
        return target

    def latest(self, damaged: list[Path] | None = None) -> Checkpoint | None:
        """The newest whole checkpoint; `damaged` collects those passed over.

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
                if not (path / name).is_file() or _digest(path / name) != value["files"][name]:
                    raise CorruptFileError(f"{path / name} is not what its checkpoint says.")
            self._refuse_foreign(path, value)
            return Checkpoint(path, State.from_json(value["state"]), value["machine"])
        except (KeyError, TypeError, AttributeError) as wrong:
            raise CorruptFileError(f"{path / STATE} is no checkpoint's: {wrong!r}.") from wrong

    def _refuse_foreign(self, path: Path, value: Mapping[str, Any]) -> None:
        mine = {"data": self._identity.data, **self._identity.options}
        its = {"data": value["data"], **value["options"]}
        decide = (mine | its).keys() - NON_IDENTITY_FIELDS
        differing = [key for key in sorted(decide) if mine.get(key) != its.get(key)]
        if differing:
            shown = ", ".join(f"{k} ({its.get(k)} there, {mine.get(k)} here)" for k in differing)
            raise FolderError(
                f"{path} is a checkpoint of another run; it differs in {shown}.",
                next_step="Move it away. A run goes on from its own checkpoints alone.",
            )

    def _write_state(self, folder: Path, state: State) -> None:
        value = {
            "state": state.to_json(),
            "data": self._identity.data,
            "options": dict(self._identity.options),
            "machine": dict(self.machine),
            "files": {name: _digest(folder / name) for name in (ADAPTER, OPTIMIZER)},
        }
        (folder / STATE).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def _paths(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.name.isdigit()]

    def _prune(self, state: State) -> None:
        """Drop all but the last ones and the best; later ones are of before a roll-back."""
        earlier = sorted(p.name for p in self._paths() if p.name <= name_of(state.update))
        kept = set(earlier[-KEPT:])
        if state.best is not None:
            kept.add(name_of(state.best.update))
        for path in self._paths():
            if path.name not in kept:
                shutil.rmtree(path)


def name_of(update: int) -> str:
    return f"{update:07d}"


def is_full(folder: Path) -> bool:
    """Whether a few megabytes are all that is left."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < 64 << 20


def _replace(part: Path, target: Path) -> None:
    for path in part.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(part)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
    sync_folder(target.parent)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        raise CorruptFileError(f"{path / STATE} can't be read: {broken}.") from broken
    return value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(path: Path) -> dict[str, mx.array]:
    arrays = mx.load(str(path))
    if not isinstance(arrays, dict):
        raise CorruptFileError(f"{path} holds no table of arrays.")
    return arrays
