"""The bytes of a version's files: their hashes, and getting them to disk for good."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from nanodistill.dataset.manifest import FileFacts, Manifest
from nanodistill.runfolder import sync_folder


def file_facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(sha256=digest, bytes=path.stat().st_size)


def facts_of_files(folder: Path) -> dict[str, FileFacts]:
    """Every file under `folder` by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_facts(path) for path in files}


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether every file that the manifest lists still has the bytes that were written."""
    return all(
        (folder / name).is_file() and file_facts(folder / name) == facts
        for name, facts in manifest.files.items()
    )


def make_durable(folder: Path) -> None:
    """Sync everything in `folder` to disk, and take the right to write from its files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(path.stat().st_mode & 0o444)
