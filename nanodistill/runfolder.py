"""The folder of one run: where everything lies, and who may write.

    OUTPUT_DIR/NAME/config.json, journal.sqlite, policy.json, datasets/,
                    training/, evaluation/, model/, report.html

Small files are replaced whole (`write_atomic`), so that a reader sees the old
content or the new one and a crash leaves one of them. `synthesizing` and
`training` hold an operating-system lock, which dies with its process: a second
process on the same half of a run is refused, a crashed one leaves nothing
behind to clean up. The two halves may work side by side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.errors import DamagedFile, NewerVersion, RunLocked

FORMAT = 1
GRACE = 0.3  # seconds: `is_locked` looks at a lock by taking it for an instant


@dataclass(frozen=True)
class RunFolder:
    """Paths of the run called `root.name`. Nothing is created until it is written."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @property
    def policy(self) -> Path:
        return self.root / "policy.json"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def training(self) -> Path:
        return self.root / "training"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @contextmanager
    def locked(self, half: str, *, wait: float = GRACE) -> Iterator[None]:
        """Hold the lock of one half ("synth" or "train") of this run.

        `wait` is for how many seconds to wait for a process that holds it.

        Raises:
            RunLocked: another live process holds it.
            NewerVersion: a newer release wrote this folder.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        check_format(self.root / "format.json")
        lock = FileLock(self.root / f".{half}.lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout as busy:
            raise RunLocked(
                f"another process is working on {self.root} ({half}).",
                next_step="Wait for it to end, or stop it, then run the command again.",
            ) from busy
        try:
            yield
        finally:
            lock.release()

    def is_locked(self, half: str) -> bool:
        """Whether a process holds the lock of that half right now."""
        from filelock import FileLock, Timeout

        file = self.root / f".{half}.lock"
        if not file.exists():
            return False
        try:
            FileLock(file).acquire(timeout=0).lock.release()
        except Timeout:
            return True
        return False


def check_format(marker: Path) -> None:
    """Refuse a folder of a newer layout; mark a new one with ours."""
    if not marker.exists():
        write_json(marker, {"format": FORMAT})
        return
    found = read_json(marker)["format"]
    if found > FORMAT:
        raise NewerVersion(
            f"{marker.parent} was written by a newer NanoDistill "
            f"(folder format {found}, this one knows {FORMAT}).",
            next_step="Update NanoDistill, or choose another output_dir or name.",
        )


def bytes_in(path: Path) -> int:
    """The size of a file, or of all files in a folder, which may come and go meanwhile."""
    files = [path]
    if path.is_dir():
        files = [Path(place) / name for place, _, names in os.walk(path) for name in names]
    total = 0
    for file in files:
        # What is gone by now takes no room.
        with suppress(FileNotFoundError, NotADirectoryError):
            total += file.stat().st_size
    return total


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: durable when this returns, never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON that a person can read, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote.

    Raises:
        DamagedFile: it is not a JSON object (any more).
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as broken:
        raise DamagedFile(
            f"{path} is not valid JSON: {broken}.",
            next_step="Mend it by hand, or move it away and run the command again.",
        ) from broken
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} should hold a JSON object, not {type(value).__name__}.")
    return value
