"""Writing a dataset version: all of it or nothing, once, and for good.

A version is built in a hidden folder beside its place, synced to disk, and put in place by one
rename; then the index names it as the latest. Whenever the power goes, there is the old state or
the new one. Its files are read-only from then on: a version never changes, it gets a child.

Rows that are already there make no second version: where the rows, and all that training reads with
them, are those of an earlier version, that one is returned, as the latest again.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nanodistill.dataset.card import card_of
from nanodistill.dataset.describe import StatsAccumulator
from nanodistill.dataset.manifest import FILE, FileFacts, Manifest, RowCounts, VersionFacts
from nanodistill.dataset.provenance import libraries, public_name, scrubbed
from nanodistill.dataset.read import (
    DatasetVersion,
    VersionIndex,
    current_index,
    next_name,
    open_folder,
    save_index,
    writing,
)
from nanodistill.dataset.row_sorter import RowSorter, spool_in
from nanodistill.dataset.rows import (
    DEFAULT,
    REJECTED,
    REJECTED_FILE,
    SPLITS,
    Row,
    fingerprint_of,
    messages_of,
    row_of,
    split_file,
    write_rows,
)
from nanodistill.errors import DiskFullError, TooFewRowsError
from nanodistill.run_dir import RunFolder, sync_folder
from nanodistill.thinking import Format, has_thinking
from nanodistill.types import Rejection, Split, Trace


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


def fsync_tree(folder: Path) -> None:
    """Sync everything in `folder` to disk, and take the right to write from its files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(path.stat().st_mode & 0o444)


BUILDING, REMOVING = ".building", ".removing"
CARD = "README.md"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class VersionDraft:
    """A version to be: rows in any order, each gone through once, and what is known of them.

    `shape` writes thinking and output as one text. Within train and valid an id
    occurs once, and no row of theirs is in test.
    """

    rows: Iterable[tuple[Split, Trace]]
    rejected: Iterable[Rejection]
    shape: Format
    facts: VersionFacts


def write_version(run: RunFolder, draft: VersionDraft) -> DatasetVersion:
    """Write `draft` as the run's latest version, or find the version that it equals.

    Raises:
        TooFewRowsError: no row was kept.
        DiskFullError: there is no room; nothing is left behind.
        RunLockedError: another process has been writing to this run's datasets for a minute.
        ValueError: the draft breaks what it promises (its counts, its ids).
    """
    with writing(run), _disk_full_is_said(run), _building_folder(run) as folder:
        index = current_index(run)
        with spool_in(folder) as spool:
            spool.add(_rows(draft))
            spool.add_rejected(_rejected_rows(draft))
            manifest = _described(draft.facts, spool, index)
            if existing := _same_version(run, manifest, index):
                return _made_latest(run, existing, index)
            _write_files(folder, spool)
        return _put_in_place(run, folder, manifest)


def _rows(draft: VersionDraft) -> Iterator[tuple[Split, Row]]:
    row = _row_maker(draft)
    return ((split, row(trace)) for split, trace in draft.rows)


def _rejected_rows(draft: VersionDraft) -> Iterator[Row]:
    row = _row_maker(draft)
    for rejection in draft.rejected:
        yield row(rejection.trace) | {"reason": rejection.reason, "detail": rejection.detail}


def _row_maker(draft: VersionDraft) -> Callable[[Trace], Row]:
    name_of = functools.cache(public_name)
    keeps_thinking = has_thinking(draft.shape)

    def row(trace: Trace) -> Row:
        thinking = trace.thinking if keeps_thinking else None
        shown = replace(
            trace,
            teacher=name_of(trace.teacher),
            thinking=thinking,
            thinking_from=None if thinking is None else trace.thinking_from,
        )
        return row_of(shown, messages_of(shown, draft.facts.instruction, draft.shape))

    return row


def _described(facts: VersionFacts, spool: RowSorter, index: VersionIndex) -> Manifest:
    spool.check_ids()
    counts = RowCounts(**spool.count_by_split(), rejected=spool.count_rejected())
    if not counts.kept:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts.rejected.items())
        told = f": {sum(counts.rejected.values())} were rejected ({reasons})" if reasons else ""
        raise TooFewRowsError(f"No row was kept{told}.")
    figures = StatsAccumulator(facts.labels)
    for split in SPLITS:
        for row in spool.rows(split):
            figures.add(row, split)
    fingerprint = fingerprint_of(spool.lines())
    return Manifest(
        **scrubbed(facts).model_dump(),
        name=next_name(index, fingerprint),
        fingerprint=fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        counts=counts,
        statistics=figures.result(),
        files={},
        libraries=libraries(),
    )


def _same_version(run: RunFolder, manifest: Manifest, index: VersionIndex) -> DatasetVersion | None:
    """An intact earlier version of the same identity."""
    for entry in index.versions:
        if entry.fingerprint == manifest.fingerprint:
            version = open_folder(run.datasets / entry.name)
            if version.manifest.identity == manifest.identity and is_intact(
                version.path, version.manifest
            ):
                return version
    return None


def _made_latest(run: RunFolder, version: DatasetVersion, index: VersionIndex) -> DatasetVersion:
    save_index(run, index.model_copy(update={"latest": version.path.name}))
    return version


def _write_files(folder: Path, spool: RowSorter) -> None:
    for split in SPLITS:
        write_rows(folder / split_file(split), spool.rows(split), DEFAULT)
    write_rows(folder / REJECTED_FILE, spool.rejected(), REJECTED)


def _put_in_place(run: RunFolder, folder: Path, manifest: Manifest) -> DatasetVersion:
    (folder / CARD).write_text(card_of(manifest), encoding="utf-8", newline="\n")
    manifest = manifest.model_copy(update={"files": facts_of_files(folder)}).sealed()
    (folder / FILE).write_bytes(manifest.to_bytes())
    fsync_tree(folder)
    place = run.datasets / manifest.name
    folder.rename(place)
    sync_folder(run.datasets)
    save_index(run, current_index(run))
    return DatasetVersion(place, manifest)


@contextmanager
def _building_folder(run: RunFolder) -> Iterator[Path]:
    """A fresh hidden folder, gone afterwards unless it was renamed. Sweeps what a crash left."""
    run.datasets.mkdir(parents=True, exist_ok=True)
    clean_temp(run)
    folder = run.datasets / BUILDING
    folder.mkdir()
    try:
        yield folder
    finally:
        clean_temp(run)


def clean_temp(run: RunFolder) -> None:
    """Remove half-built and half-removed versions. The caller holds the right to write."""
    for path in run.datasets.glob(".*"):
        if path.name == BUILDING or path.name.startswith(REMOVING):
            shutil.rmtree(path)


@contextmanager
def _disk_full_is_said(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as failed:
        is_full = isinstance(failed, OSError) and failed.errno in DISK_FULL
        if not is_full and "disk is full" not in str(failed):
            raise
        raise DiskFullError(
            f"No room left on the disk of {run.root}: the dataset version was not written.",
            next_step="Make room, then run the command again; no call is bought twice.",
        ) from failed
