"""Reading a dataset version: its manifest, its rows, and which one is meant.

Rows are streamed by pyarrow; nothing here needs the `datasets` library. A version
stands on its own: opened by its folder, wherever that came from, it needs no run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanodistill.dataset.index import Index, heal_index, number_of
from nanodistill.dataset.manifest import Manifest, RowCounts, read_manifest
from nanodistill.dataset.rows import REJECTED_FILE, Row, read_rows, split_file
from nanodistill.errors import FolderError, NoDataset
from nanodistill.hubrows import HubDataset
from nanodistill.records import Split
from nanodistill.runfolder import RunFolder
from nanodistill.textfiles import expanded, path_problem

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
class Named:
    """A version of a run by its name, `v0001-1a2b3c4d` or `v0001`."""

    name: str


Where = Named | Path | HubDataset | None


def parse_where(where: str | Path | None) -> Where:
    """What a person's word for a dataset means: a version, a folder, a Hub id, or None: the latest.

    An existing folder comes before a Hub id of the same spelling.
    """
    if where is None or isinstance(where, Path):
        return where
    if VERSION.match(where):
        return Named(where)
    folder = expanded(where)
    if os.path.exists(folder) or not HubDataset.looks_like(where):
        return folder
    return HubDataset.parse(where)


def open_version(where: str | Path | None, run: RunFolder | None) -> DatasetVersion:
    """The version that is meant; see `parse_where`. One on the Hub is fetched and verified.

    Raises:
        NoDataset: the latest was asked for and the run has none yet.
        FolderError: there is no such version or folder.
        InputError, CheckFailed, Stopped: a Hub id that can't be fetched; see `hub.pull`.
    """
    meant = parse_where(where)
    if isinstance(meant, HubDataset):
        from nanodistill.hub.pull import fetch_dataset

        return open_folder(fetch_dataset(meant))
    if isinstance(meant, Path):
        return open_folder(meant)
    if run is None:
        raise FolderError("A version's name needs the run that it belongs to.")
    index = heal_index(run)
    name = _latest(index, run) if meant is None else _named(meant.name, index, run)
    return open_folder(run.datasets / name)


def open_folder(folder: Path) -> DatasetVersion:
    """The version whose files lie in `folder`.

    Raises:
        FolderError: none lies there.
        DamagedFile, NewerVersion: it can't be read.
    """
    if wrong := path_problem(folder):
        raise FolderError(f"The folder {folder} {wrong}.")
    if not folder.is_dir():
        raise FolderError(f"There is no folder {folder}.")
    return DatasetVersion(folder, read_manifest(folder))


def _latest(index: Index, run: RunFolder) -> str:
    if index.latest is None:
        raise NoDataset(
            f"{run.root} has no dataset version yet.",
            next_step="Make one: nanodistill synth RUN.toml",
        )
    return index.latest


def _named(name: str, index: Index, run: RunFolder) -> str:
    wanted = int(name[1:].split("-")[0])
    for known in index.names:
        if known == name or ("-" not in name and number_of(known) == wanted):
            return known
    there = f"there are {', '.join(index.names)}" if index.names else "there is none yet"
    raise FolderError(f"{run.root} has no dataset version {name}: {there}.")
