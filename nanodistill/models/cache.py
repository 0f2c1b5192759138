"""SHA-256 of large files, remembered as long as the file is the same.

A model file has gigabytes and its hash is asked for at every start, to name a
conversion or to record which student was trained. A remembered hash holds for
one path, size, inode and time of last change, as make and git have it.

What we keep between runs: folders that are there whole or not at all.

A folder of the cache is built beside its place under a passing name and then
renamed into it, by one process at a time. Its name says all that went into it
(source, hash, version of the converter), so a folder that exists is finished
and never changes. The lock is the operating system's and dies with its
process; what a killed process left half-built is cleared away by the next one.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from nanodistill.errors import DiskFullError, ModelError
from nanodistill.events import Listener, Notice
from nanodistill.text_files import expanded


def file_sha256(path: Path) -> str:
    remembered = cache_folder() / "digests" / _key(path)
    with suppress(OSError):
        return remembered.read_text(encoding="ascii")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # One that can't be remembered is computed again.
    with suppress(OSError):
        _remember(digest, remembered)
    return digest


def _remember(digest: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    passing = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
    passing.write_text(digest, encoding="ascii")
    passing.replace(place)


def files_sha256(paths: Iterable[Path]) -> str:
    """One hash over the names and contents of some files, whatever their folder."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _key(path: Path) -> str:
    stat = path.stat()
    facts = (os.fspath(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


OVERRIDE = "NANODISTILL_CACHE"

FULL = {errno.ENOSPC, errno.EDQUOT}
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def cache_folder() -> Path:
    """The user's cache folder for NanoDistill, or what `NANODISTILL_CACHE` names."""
    override = os.environ.get(OVERRIDE)
    return expanded(override) if override else platformdirs.user_cache_path("nanodistill")


def build_once(target: Path, build: Callable[[Path], None], listener: Listener) -> Path:
    """`target`, built by `build(folder)` if it isn't there yet. Raises ModelError or DiskFullError
    where the cache can't hold it."""
    if target.is_dir():
        return target
    try:
        return _build_once(target, build, listener)
    except OSError as error:
        if error.errno not in FULL | UNUSABLE:
            raise
        raise _translated(error) from error


def _translated(error: OSError) -> Exception:
    if error.errno in FULL:
        return DiskFullError(
            f"No room is left on the disk that holds {cache_folder()}",
            next_step=f"Make room, or set {OVERRIDE} to a folder on another disk.",
        )
    return ModelError(
        f"{cache_folder()}, where models are kept, can't be written to: {error}",
        next_step=f"Set {OVERRIDE} to a folder that can.",
    )


def _build_once(target: Path, build: Callable[[Path], None], listener: Listener) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target, listener):
        if target.is_dir():
            return target
        for leftover in target.parent.glob(f"{glob.escape(target.name)}.*.partial"):
            # The pip of a killed process may still be writing into it.
            shutil.rmtree(leftover, ignore_errors=True)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
        partial.mkdir()
        try:
            build(partial)
            _publish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _lock(target: Path, listener: Listener) -> AbstractContextManager[object]:
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        listener(Notice(f"waiting for another process, which is making {target.name}"))
        return lock.acquire()


def _publish(partial: Path, target: Path) -> None:
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    partial.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
