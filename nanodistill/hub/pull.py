"""pull(): a dataset version or a model from the Hub, at one revision, in a folder.

Files come through huggingface_hub's cache, where an interrupted download resumes and a second one
finds the work done. Then they are checked (a dataset version by `dataset verify`, a model's files
by the Hub's own hashes) and moved into their folder in one step: it holds all of them or does not
exist.
"""

from __future__ import annotations

import filecmp
import glob
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.data_files import HubDataset
from nanodistill.dataset.manifest import FILE, read_manifest
from nanodistill.dataset.read import DatasetVersion, open_folder, open_version, parse_dataset_ref
from nanodistill.dataset.verify import verify
from nanodistill.dataset.write import fsync_tree
from nanodistill.errors import FolderError, InputError, RunIncompleteError, VerificationError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.hub.client import (
    SECONDS_TO_ANSWER,
    Hub,
    OfflineError,
    RepositoryNotFoundError,
    commit_of,
    translate_errors,
)
from nanodistill.hub.upload_bundle import RepoType, is_same, remote_hashes
from nanodistill.run_dir import RunFolder, safe_path, same_elsewhere
from nanodistill.text_files import expanded, path_problem


@dataclass(frozen=True)
class PullResult:
    """What a pull came to. `version` and `fingerprint` are a dataset's, None of a model."""

    repo: str
    kind: str
    commit: str
    path: Path
    version: str | None
    fingerprint: str | None
    files: int
    reused: bool

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path)}

    def summary(self) -> str:
        what = f"dataset version {self.version}" if self.version else f"model {self.repo}"
        done = "was there already" if self.reused else "pulled and checked"
        return f"{self.path}: {what}, {self.files} files, {done}."


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit, as they lie in the cache."""

    folder: Path
    names: tuple[str, ...]

    @property
    def commit(self) -> str:
        return self.folder.name

    def is_in(self, folder: Path) -> bool:
        """Whether `folder` holds these files and, hidden ones apart, no others."""
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        shown = {name for name in there if not is_hidden(name)}
        return shown == set(self.names) and all(
            filecmp.cmp(self.folder / name, folder / name, shallow=False) for name in self.names
        )


def pull(
    where: str,
    into: Path,
    *,
    kind: RepoType = "dataset",
    hub: Hub | None = None,
    on_event: Listener = ignore,
) -> PullResult:
    """Fetch `owner/name` or `owner/name@revision`, check it and put it into the folder `into`.

    Raises:
        InputError: there is no such repository or revision for us.
        FolderError: it holds no dataset version, or `into` holds something else.
        VerificationError: what arrived is not what was pushed.
        RunIncompleteError: the Hub can't be reached.
    """
    hub, meant = hub or Hub(), parse_repo(where)
    into = _place(into)
    if kind == "model":
        return _put(meant, kind, _model_snapshot(meant, hub, on_event), into)
    try:
        snapshot = _dataset_snapshot(meant, hub, on_event)
    except RepositoryNotFoundError as missing:
        raise RepositoryNotFoundError(
            missing.message, next_step=f"{missing.next_step} A model is pulled with --model."
        ) from missing
    verify(snapshot.folder)
    return _put(meant, kind, snapshot, into)


def open_dataset(where: str | Path | None, run: RunFolder | None) -> DatasetVersion:
    """The version that is meant; one on the Hub is fetched and verified.

    Raises:
        NoDatasetError: the latest was asked for and the run has none yet.
        FolderError: there is no such version or folder.
        InputError, VerificationError, RunIncompleteError: a Hub id that can't be fetched.
    """
    meant = parse_dataset_ref(where)
    if isinstance(meant, HubDataset):
        return open_folder(fetch_dataset(meant))
    return open_version(where, run)


def fetch_dataset(
    where: HubDataset, *, hub: Hub | None = None, on_event: Listener = ignore
) -> Path:
    """The folder of a dataset version in huggingface_hub's cache, downloaded and verified.

    Raises:
        As `pull`.
    """
    snapshot = _dataset_snapshot(where, hub or Hub(), on_event)
    verify(snapshot.folder)
    return snapshot.folder


def _place(into: Path) -> Path:
    """
    Raises:
        FolderError: nothing can be put there.
    """
    wrong = path_problem(into)
    if wrong is None and os.path.lexists(into) and not into.is_dir():
        wrong = "is a file, and should be a folder that is empty or not there yet"
    if wrong is not None:
        raise FolderError(f"{into} {wrong}.", next_step="Name another folder: --into DIR")
    return expanded(into).resolve()


def parse_repo(where: str) -> HubDataset:
    """`owner/name` or `owner/name@revision`.

    Raises:
        InputError: it is neither.
    """
    try:
        named = HubDataset.parse(where)
        if named.revision is not None and {"", ".", ".."} & set(named.revision.split("/")):
            raise ValueError(f"{named.revision!r} is no revision")
        return named
    except ValueError as wrong:
        raise InputError(
            f"{where!r} names no repository.", next_step="Write OWNER/NAME or OWNER/NAME@REVISION."
        ) from wrong


def _dataset_snapshot(where: HubDataset, hub: Hub, on_event: Listener) -> Snapshot:
    """From the Hub; where that can't be reached, what the cache holds of this revision."""
    try:
        with translate_errors(hub, where.repo, "dataset"):
            hub.api.dataset_info(where.repo, revision=where.revision, timeout=SECONDS_TO_ANSWER)
    except (RunIncompleteError, OfflineError) as unreached:
        if (cached := _cached(where, hub)) is None:
            raise
        on_event(Notice(f"{unreached.message} Taking the copy of {where} in the cache.", "warning"))
        return cached
    return _downloaded(where, hub, on_event)


def _cached(where: HubDataset, hub: Hub) -> Snapshot | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        where.repo, FILE, cache_dir=hub.cache, revision=where.revision, repo_type="dataset"
    )
    if not isinstance(found, str):
        return None
    snapshot = Snapshot(Path(found).parent, _listed(Path(found).parent))
    whole = all((snapshot.folder / name).is_file() for name in snapshot.names)
    return snapshot if whole else None


def _downloaded(where: HubDataset, hub: Hub, on_event: Listener) -> Snapshot:
    """The manifest first: it lists the other files, and its commit is the one they are taken of."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with translate_errors(hub, where.repo, "dataset"):
        try:
            manifest = hub.api.hf_hub_download(
                where.repo,
                FILE,
                repo_type="dataset",
                revision=where.revision,
                cache_dir=hub.cache,
                etag_timeout=SECONDS_TO_ANSWER,
            )
        except RemoteEntryNotFoundError as missing:
            raise FolderError(
                f"{where} holds no dataset version of NanoDistill: it has no {FILE}.",
                next_step="Its rows can be used all the same: set seed, test or training_data "
                f"to {where}",
            ) from missing
    folder = Path(manifest).parent
    commit_of(folder.name, hub)
    listed = _listed(folder)
    _check_sizes(where, folder, hub)
    return _snapshot(where.repo, "dataset", folder.name, listed, hub, on_event)


def _check_sizes(where: HubDataset, folder: Path, hub: Hub) -> None:
    """See that what is about to be fetched is as large as the manifest says.

    Raises:
        VerificationError: it is not, or it is not there.
    """
    listed = read_manifest(folder).files
    with translate_errors(hub, where.repo, "dataset"):
        there = hub.api.get_paths_info(
            where.repo, list(listed), revision=folder.name, repo_type="dataset"
        )
        sizes = {entry.path: getattr(entry, "size", None) for entry in there}
    wrong = [name for name, facts in listed.items() if sizes.get(name) != facts.bytes]
    if wrong:
        told = "; ".join(
            f"{name} has {sizes.get(name, 'no')} bytes, the manifest says {listed[name].bytes}"
            for name in wrong
        )
        raise VerificationError(f"{where} is not what was pushed: {told}.")


def _listed(folder: Path) -> tuple[str, ...]:
    return tuple(sorted({*read_manifest(folder).files, FILE}))


def _model_snapshot(where: HubDataset, hub: Hub, on_event: Listener) -> Snapshot:
    with translate_errors(hub, where.repo, "model"):
        info = hub.api.model_info(where.repo, revision=where.revision, timeout=SECONDS_TO_ANSWER)
        commit = commit_of(info.sha, hub)
        hashes = remote_hashes(hub.api, where.repo, "model", commit)
    names = tuple(sorted(name for name in hashes if not is_hidden(name)))
    if not names:
        raise FolderError(f"{where} has no files to pull.")
    _refuse_unsafe(where, names)
    snapshot = _snapshot(where.repo, "model", commit, names, hub, on_event)
    wrong = [
        name
        for name in names
        if not (snapshot.folder / name).is_file()
        or not is_same(snapshot.folder / name, hashes[name])
    ]
    if wrong:
        raise VerificationError(
            f"{where} did not arrive as the Hub has it: {', '.join(wrong)}.",
            next_step=f"Remove {snapshot.folder} and pull again.",
        )
    return snapshot


def _refuse_unsafe(where: HubDataset, names: Iterable[str]) -> None:
    """
    Raises:
        VerificationError: a file's name leads out of the folder, or two would be one file
            somewhere.
    """
    try:
        same_elsewhere(map(safe_path, names))
    except ValueError as wrong:
        raise VerificationError(f"{where} can't be put into a folder: {wrong}.") from wrong


def _snapshot(
    repo: str, kind: RepoType, commit: str, names: Iterable[str], hub: Hub, on_event: Listener
) -> Snapshot:
    names = tuple(names)
    on_event(Notice(f"fetching {len(names)} files of {repo} at {commit[:8]}"))
    with translate_errors(hub, repo, kind):
        folder = hub.api.snapshot_download(
            repo,
            repo_type=kind,
            revision=commit,
            cache_dir=hub.cache,
            allow_patterns=[glob.escape(name) for name in names],
            etag_timeout=SECONDS_TO_ANSWER,
        )
    return Snapshot(Path(folder), names)


def _put(where: HubDataset, kind: RepoType, snapshot: Snapshot, into: Path) -> PullResult:
    reused = into.is_dir() and any(into.iterdir())
    if reused and not snapshot.is_in(into):
        raise FolderError(
            f"{into} holds something else already.", next_step="Name another folder: --into DIR"
        )
    if not reused:
        _copy(snapshot, into)
    manifest = read_manifest(into) if kind == "dataset" else None
    return PullResult(
        repo=where.repo,
        kind=kind,
        commit=snapshot.commit,
        path=into,
        version=manifest.name if manifest else None,
        fingerprint=manifest.fingerprint if manifest else None,
        files=len(snapshot.names),
        reused=reused,
    )


def _copy(snapshot: Snapshot, into: Path) -> None:
    """All files at their place in one step, read-only as the writer of versions leaves them."""
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_name(f".{into.name}.pulling")
    shutil.rmtree(part, ignore_errors=True)
    for name in snapshot.names:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(snapshot.folder / name, part / name)
    fsync_tree(part)
    part.rename(into)


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
