"""Reading dataset versions, and the index of a run's versions.

The folders are the truth, and datasets/index.json follows them. A version exists from the rename
that puts its whole folder in place. If a crash comes before the index is written, the next reader
or writer finds the folder and adds it, as the latest. A folder that a person deleted leaves the
index the same way. The latest is not always the newest: a run that goes back to an earlier
configuration finds that version and makes it the latest again.

Rows are streamed by pyarrow; nothing here needs the `datasets` library. A version stands on its
own: opened by its folder, it needs no run.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.data_files import HubDataset
from nanodistill.dataset.manifest import (
    NAME,
    Frozen,
    Manifest,
    RowCounts,
    VersionName,
    read_manifest,
)
from nanodistill.dataset.rows import REJECTED_FILE, Row, read_rows, split_file
from nanodistill.errors import CorruptFileError, FolderError, NoDatasetError, RunLockedError
from nanodistill.run_dir import RunFolder, read_json, write_json
from nanodistill.text_files import expanded, path_problem
from nanodistill.types import Split

FORMAT = 1
SECONDS_TO_WAIT = 60.0
NOT_OURS_TO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


class VersionEntry(Frozen):
    """A version as the index lists it."""

    name: VersionName
    fingerprint: str
    created: str
    counts: RowCounts
    parents: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest, name: str) -> VersionEntry:
        return cls(
            name=name,
            fingerprint=manifest.fingerprint,
            created=manifest.created,
            counts=manifest.counts,
            parents=manifest.parents,
        )


class VersionIndex(Frozen):
    """The versions of a run, oldest first."""

    format: int = FORMAT
    latest: str | None = None
    versions: tuple[VersionEntry, ...] = ()

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.versions]


def number_of(name: str) -> int:
    """The number of a version's name: 12 for v0012-…"""
    found = NAME.match(name)
    if found is None:
        raise ValueError(f"{name!r} is no name of a dataset version")
    return int(found[1])


def next_name(index: VersionIndex, fingerprint: str) -> str:
    last = max((number_of(name) for name in index.names), default=0)
    return f"v{last + 1:04d}-{fingerprint[:8]}"


def current_index(run: RunFolder) -> VersionIndex:
    """The index as the folders say it is, whatever the file says."""
    written = _written(run)
    names = sorted(_folders(run.datasets), key=number_of)
    known = {entry.name: entry for entry in written.versions}
    versions = tuple(
        known.get(name) or VersionEntry.of(read_manifest(run.datasets / name), name)
        for name in names
    )
    return VersionIndex(latest=_latest_entry(names, written), versions=versions)


def repair_index(run: RunFolder) -> VersionIndex:
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
    except RunLockedError:
        return index
    except OSError as refused:
        if refused.errno not in NOT_OURS_TO_WRITE:
            raise
    return index


def save_index(run: RunFolder, index: VersionIndex) -> None:
    write_json(run.datasets / "index.json", index.model_dump(mode="json"))


@contextmanager
def writing(run: RunFolder, *, wait: float = SECONDS_TO_WAIT) -> Iterator[None]:
    """Hold the right to change `datasets/`: for the time it takes to write one version."""
    with run.locked("datasets", wait=wait):
        yield


def _written(run: RunFolder) -> VersionIndex:
    path = run.datasets / "index.json"
    if not path.exists():
        return VersionIndex()
    values: dict[str, Any] = read_json(path)
    try:
        return VersionIndex.model_validate(values)
    except ValueError as invalid:
        raise CorruptFileError(
            f"{path} is no index of dataset versions any more: {invalid}.",
            next_step="Delete it: it is made again from the versions' folders.",
        ) from invalid


def _folders(datasets: Path) -> list[str]:
    if not datasets.is_dir():
        return []
    return [path.name for path in datasets.iterdir() if NAME.match(path.name) and path.is_dir()]


def _latest_entry(names: list[str], written: VersionIndex) -> str | None:
    if not names:
        return None
    unseen = [name for name in names if name not in written.names]
    newest_seen = max(map(number_of, written.names), default=0)
    if unseen and number_of(unseen[-1]) > newest_seen:
        return unseen[-1]
    return written.latest if written.latest in names else names[-1]


VERSION = re.compile(r"v\d+(-[0-9a-f]{8})?\Z")


@dataclass(frozen=True)
class DatasetVersion:
    """A version on disk."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def counts(self) -> RowCounts:
        return self.manifest.counts

    def rows(self, split: Split) -> Iterator[Row]:
        """The rows of a split in order of id, as dicts with the columns of the file."""
        return self._rows(split_file(split))

    def rejected(self) -> Iterator[Row]:
        """The rejected rows, which have `reason` and `detail` too."""
        return self._rows(REJECTED_FILE)

    def _rows(self, file: str) -> Iterator[Row]:
        return read_rows(self.path / file) if file in self.manifest.files else iter(())


@dataclass(frozen=True)
class NamedVersion:
    """A version of a run by its name, `v0001-1a2b3c4d` or `v0001`."""

    name: str


DatasetRef = NamedVersion | Path | HubDataset | None


def parse_dataset_ref(where: str | Path | None) -> DatasetRef:
    """What a person's word for a dataset means: a version, a folder, a Hub id, or None: the latest.

    An existing folder comes before a Hub id of the same spelling.
    """
    if where is None or isinstance(where, Path):
        return where
    if VERSION.match(where):
        return NamedVersion(where)
    folder = expanded(where)
    if os.path.exists(folder) or not HubDataset.looks_like(where):
        return folder
    return HubDataset.parse(where)


def open_version(where: str | Path | None, run: RunFolder | None) -> DatasetVersion:
    """The version that is meant, on this machine; see `parse_dataset_ref`.

    One that may be on the Hub is opened with `hub.pull.open_dataset`.

    Raises:
        NoDatasetError: the latest was asked for and the run has none yet.
        FolderError: there is no such version or folder.
    """
    meant = parse_dataset_ref(where)
    if isinstance(meant, HubDataset):
        raise FolderError(f"There is no folder {where}.")
    if isinstance(meant, Path):
        return open_folder(meant)
    if run is None:
        raise FolderError("A version's name needs the run that it belongs to.")
    index = repair_index(run)
    name = _latest(index, run) if meant is None else _named(meant.name, index, run)
    return open_folder(run.datasets / name)


def open_folder(folder: Path) -> DatasetVersion:
    """The version whose files lie in `folder`.

    Raises:
        FolderError: none lies there.
        CorruptFileError, NewerVersionError: it can't be read.
    """
    if wrong := path_problem(folder):
        raise FolderError(f"The folder {folder} {wrong}.")
    if not folder.is_dir():
        raise FolderError(f"There is no folder {folder}.")
    return DatasetVersion(folder, read_manifest(folder))


def _latest(index: VersionIndex, run: RunFolder) -> str:
    if index.latest is None:
        raise NoDatasetError(
            f"{run.root} has no dataset version yet.",
            next_step="Make one: nanodistill synth RUN.toml",
        )
    return index.latest


def _named(name: str, index: VersionIndex, run: RunFolder) -> str:
    wanted = int(name[1:].split("-")[0])
    for known in index.names:
        if known == name or ("-" not in name and number_of(known) == wanted):
            return known
    there = f"there are {', '.join(index.names)}" if index.names else "there is none yet"
    raise FolderError(f"{run.root} has no dataset version {name}: {there}.")
