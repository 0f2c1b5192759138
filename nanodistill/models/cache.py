"""The user's cache: converted models and the hashes of model files.

A folder in the cache is complete or absent. It is built beside its place under a
temporary name and renamed into it, by one process at a time. Its name contains
everything that went into it (source, hash, version of the converter), so a folder that
exists never changes. The lock belongs to the operating system and ends with its
process; what a killed process left is deleted by the next one.

Hashing gigabytes at every start would take too long, so a file's SHA-256 is kept for as
long as its path, size, inode and time of change stay the same, which is how make and
git tell.
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
from nanodistill.run_dir import sync_folder
from nanodistill.text_files import expanded

OVERRIDE = "NANODISTILL_CACHE"

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def cache_folder() -> Path:
    """NanoDistill's cache folder; `NANODISTILL_CACHE` overrides the system's default."""
    override = os.environ.get(OVERRIDE)
    return expanded(override) if override else platformdirs.user_cache_path("nanodistill")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, from the cache if the file has not changed."""
    stat = path.stat()
    facts = (os.fspath(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    cached = cache_folder() / "digests" / key
    with suppress(OSError):
        return cached.read_text(encoding="ascii")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # what can't be cached is computed again
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_name(f"{cached.name}.{secrets.token_hex(4)}")
        temporary.write_text(digest, encoding="ascii")
        temporary.replace(cached)
    return digest


def files_sha256(paths: Iterable[Path]) -> str:
    """One hash over the names and contents of files, wherever they are."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def build_once(target: Path, build: Callable[[Path], None], on_event: Listener) -> Path:
    """Return `target`, building it first if it isn't there.

    Args:
        build: fills the folder it is given.

    Raises:
        ModelError: the cache can't be written to.
        DiskFullError: it has no space left.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target, on_event):
            if not target.is_dir():
                _build(target, build)
        return target
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError(
                f"No space left on the disk of {cache_folder()}",
                next_step=f"Free some space, or set {OVERRIDE} to a folder on another disk.",
            ) from error
        if error.errno in NOT_WRITABLE:
            raise ModelError(
                f"The cache for models, {cache_folder()}, is not writable: {error}",
                next_step=f"Set {OVERRIDE} to a folder that is.",
            ) from error
        raise


def _build(target: Path, build: Callable[[Path], None]) -> None:
    for leftover in target.parent.glob(f"{glob.escape(target.name)}.*.partial"):
        # ignore_errors: the pip of a killed process may still be writing into it.
        shutil.rmtree(leftover, ignore_errors=True)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        build(partial)
        for path in (*partial.iterdir(), partial):
            sync_folder(path)  # files too: fsync takes either
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _lock(target: Path, on_event: Listener) -> AbstractContextManager[object]:
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        on_event(Notice(f"waiting for another process that is building {target.name}"))
        return lock.acquire()
