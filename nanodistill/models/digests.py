"""SHA-256 of large files, remembered as long as the file is the same.

A model file has gigabytes and its hash is asked for at every start, to name a
conversion or to record which student was trained. A remembered hash holds for
one path, size, inode and time of last change, as make and git have it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nanodistill.models.cache import cache_folder


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
