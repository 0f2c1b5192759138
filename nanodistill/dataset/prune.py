"""Freeing disk space: removing versions that nothing refers to any more.

Never the latest, and never one that a training run used: its adapter would lose its lineage and its
test set. Whether one was used is looked up by fingerprint in the JSON files of the run's training
folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from nanodistill.dataset.read import VersionEntry, VersionIndex, current_index, save_index, writing
from nanodistill.dataset.write import REMOVING, clean_temp
from nanodistill.errors import Problem, ProblemsError
from nanodistill.run_dir import RunFolder, bytes_in, read_json, sync_folder


@dataclass(frozen=True)
class Prunable:
    """A version, its size on disk, and why it has to stay, if it has to."""

    name: str
    bytes: int
    keep_reason: str | None


def prunable(run: RunFolder) -> list[Prunable]:
    """Every version of a run, oldest first, and whether it may go."""
    index = current_index(run)
    trained_on = list(_training_texts(run))
    return [
        Prunable(
            name=entry.name,
            bytes=bytes_in(run.datasets / entry.name),
            keep_reason=_kept_for(entry, index, trained_on),
        )
        for entry in index.versions
    ]


def prune(run: RunFolder, names: Collection[str] | None) -> list[Prunable]:
    """Remove the versions of these names, or with None all that may go. Returns them.

    Raises:
        ProblemsError: one of the names is no version or has to stay; nothing was removed.
    """
    with writing(run):
        chosen = _chosen(prunable(run), names)
        for version in chosen:
            (run.datasets / version.name).rename(run.datasets / f"{REMOVING}-{version.name}")
        if chosen:
            sync_folder(run.datasets)
            save_index(run, current_index(run))
            clean_temp(run)
    return chosen


def _chosen(versions: list[Prunable], names: Collection[str] | None) -> list[Prunable]:
    if names is None:
        return [version for version in versions if not version.keep_reason]
    there = {version.name: version for version in versions}
    problems = [
        Problem(name, there[name].keep_reason or "")
        if name in there
        else Problem(name, "is no version of this run")
        for name in names
        if name not in there or there[name].keep_reason
    ]
    if problems:
        raise ProblemsError("Nothing was removed:", problems)
    return [there[name] for name in dict.fromkeys(names)]


def _kept_for(
    entry: VersionEntry, index: VersionIndex, trained_on: list[tuple[str, str]]
) -> str | None:
    if entry.name == index.latest:
        return "is the latest"
    for place, text in trained_on:
        if entry.fingerprint in text:
            return f"is what {place} was trained on"
    return None


def _training_texts(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The JSON files of training: those of each run, and the index of all.

    Raises:
        CorruptFileError: one can't be read, so that nobody knows what it refers to.
    """
    for pattern in ("*/*.json", "*.json"):
        for path in sorted(run.training.glob(pattern)):
            place = path.parent if path.parent != run.training else path
            yield place.relative_to(run.root).as_posix(), json.dumps(read_json(path))
