"""datasets/index.json: a run's versions in order, and which is latest.

The folders are the truth and the index follows them. A version becomes one by the
rename that puts its whole folder in place; should a crash come before the index
says so, the next reader or writer finds the folder and adds it, as the latest. A
folder that a person deleted leaves the index the same way.

The latest is not always the newest: a run that goes back to an earlier
configuration finds that version and makes it the latest again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanodistill.dataset.manifest import (
    NAME,
    Frozen,
    Manifest,
    RowCounts,
    VersionName,
    read_manifest,
)
from nanodistill.errors import DamagedFile, RunLocked
from nanodistill.runfolder import RunFolder, read_json, write_json

FORMAT = 1
SECONDS_TO_WAIT = 60.0
NOT_OURS_TO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


class Entry(Frozen):
    """A version as the index lists it."""

    name: VersionName
    fingerprint: str
    created: str
    counts: RowCounts
    parents: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest, name: str) -> Entry:
        return cls(
            name=name,
            fingerprint=manifest.fingerprint,
            created=manifest.created,
            counts=manifest.counts,
            parents=manifest.parents,
        )


class Index(Frozen):
    """The versions of a run, oldest first."""

    format: int = FORMAT
    latest: str | None = None
    versions: tuple[Entry, ...] = ()

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.versions]


def number_of(name: str) -> int:
    """The number of a version's name: 12 for v0012-…"""
    found = NAME.match(name)
    if found is None:
        raise ValueError(f"{name!r} is no name of a dataset version")
    return int(found[1])


def next_name(index: Index, fingerprint: str) -> str:
    last = max((number_of(name) for name in index.names), default=0)
    return f"v{last + 1:04d}-{fingerprint[:8]}"


def current_index(run: RunFolder) -> Index:
    """The index as the folders say it is, whatever the file says."""
    written = _written(run)
    names = sorted(_folders(run.datasets), key=number_of)
    known = {entry.name: entry for entry in written.versions}
    versions = tuple(
        known.get(name) or Entry.of(read_manifest(run.datasets / name), name) for name in names
    )
    return Index(latest=_latest(names, written), versions=versions)


def heal_index(run: RunFolder) -> Index:
    """The current index, which is also written where the file differs from it.

    While another process writes a version the file is left to it, and where we may
    not write it is left alone.
    """
    index = current_index(run)
    if index == _written(run):
        return index
    try:
        with writing(run, wait=0):
            index = current_index(run)
            save_index(run, index)
    except RunLocked:
        return index
    except OSError as refused:
        if refused.errno not in NOT_OURS_TO_WRITE:
            raise
    return index


def save_index(run: RunFolder, index: Index) -> None:
    write_json(run.datasets / "index.json", index.model_dump(mode="json"))


@contextmanager
def writing(run: RunFolder, *, wait: float = SECONDS_TO_WAIT) -> Iterator[None]:
    """Hold the right to change `datasets/`: for the time it takes to write one version."""
    with run.locked("datasets", wait=wait):
        yield


def _written(run: RunFolder) -> Index:
    path = run.datasets / "index.json"
    if not path.exists():
        return Index()
    values: dict[str, Any] = read_json(path)
    try:
        return Index.model_validate(values)
    except ValueError as invalid:
        raise DamagedFile(
            f"{path} is no index of dataset versions any more: {invalid}.",
            next_step="Delete it: it is made again from the versions' folders.",
        ) from invalid


def _folders(datasets: Path) -> list[str]:
    if not datasets.is_dir():
        return []
    return [path.name for path in datasets.iterdir() if NAME.match(path.name) and path.is_dir()]


def _latest(names: list[str], written: Index) -> str | None:
    if not names:
        return None
    unseen = [name for name in names if name not in written.names]
    newest_seen = max(map(number_of, written.names), default=0)
    if unseen and number_of(unseen[-1]) > newest_seen:
        return unseen[-1]
    return written.latest if written.latest in names else names[-1]
