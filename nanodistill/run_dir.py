"""The folder of one run: what lies where, and who may write.

    OUTPUT_DIR/NAME/config.json, journal.sqlite, policy.json, datasets/,
                    training/, evaluation/, model/, report.html

Small files are replaced whole (`write_atomic`): a reader sees the old content or the new, and a
crash leaves one of them. Synthesis and training each hold an operating-system lock that dies with
its process: a second process on the same half of a run is refused, and a crashed one leaves nothing
to clean up. The two halves may work side by side.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanodistill.errors import CorruptFileError, NewerVersionError, RunLockedError

FORMAT = 1
MEND = "Mend it by hand, or move it away and run the command again."
T = TypeVar("T")
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
            RunLockedError: another live process holds it.
            NewerVersionError: a newer release wrote this folder.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        check_format(self.root / "format.json")
        lock = FileLock(self.root / f".{half}.lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout as busy:
            raise RunLockedError(
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
    found = read_json(marker).get("format")
    if not isinstance(found, int):
        raise CorruptFileError(f"{marker} does not say the folder's format.", next_step=MEND)
    if found > FORMAT:
        raise NewerVersionError(
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
        CorruptFileError: it is not a JSON object (any more).
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as failed:
        raise CorruptFileError(
            f"{path} can't be read: {failed.strerror or failed}.", next_step=MEND
        ) from failed
    except (ValueError, RecursionError) as broken:
        raise CorruptFileError(f"{path} is not valid JSON: {broken}.", next_step=MEND) from broken
    if not isinstance(value, dict):
        raise CorruptFileError(
            f"{path} should hold a JSON object, not {type(value).__name__}.", next_step=MEND
        )
    return value


def checked(
    path: Path, value: object, kind: type[T], *, by: str = "NanoDistill", next_step: str = MEND
) -> T:
    """`value`, read from `path`, as a `kind` (a dataclass, a pydantic model, `list[…]` of them).

    Fields of a later release are left aside. `by` is what wrote the file.

    Raises:
        CorruptFileError: a field is missing or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise CorruptFileError(
            f"{path} is not what {by} writes: {at}{': ' * bool(at)}{first['msg']}.",
            next_step=next_step,
        ) from wrong


SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")


def safe_name(name: str) -> str:
    """`name`, where it can name a folder of ours and nothing outside of it.

    Raises:
        ValueError: it holds a separator, is `..`, or is no plain name.
    """
    if not SAFE_NAME.match(name):
        raise ValueError(f"{name[:80]!r} is no safe name of a folder")
    return name


def safe_path(name: str) -> str:
    """`name`, where it is a relative path that stays in its folder on every system.

    Raises:
        ValueError: it is absolute, leads upwards, is hidden, or has a drive, a backslash or a
            character or name that a system reserves.
    """
    parts = name.split("/")
    plain = all(SAFE_PART.match(part) and not RESERVED.match(part) for part in parts)
    if not plain or len(name) > LONGEST_PATH:
        raise ValueError(f"{name[:80]!r} is no safe path inside a folder")
    return name


def same_elsewhere(names: Iterable[str]) -> None:
    """See that no two names are one file on a system that ignores case or composes letters.

    Raises:
        ValueError: two are.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} are one file on some systems")


SAFE_PART = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|.\s][^\x00-\x1f\x7f\\/:*?\"<>|]*(?<![. ])\Z")
RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|\Z)", re.IGNORECASE)
LONGEST_PATH = 400
