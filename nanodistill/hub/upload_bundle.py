"""What is pushed: files by their path in a repository, and the tag they get.

Files have the names that the Hub gives their contents: large ones by SHA-256, others as git does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nanodistill.dataset.manifest import FILE
from nanodistill.dataset.read import DatasetVersion

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile


Content = Path | bytes
Known = tuple[Literal["sha256", "git"], str]
CHUNK = 1 << 20


def is_same(content: Content, known: Known) -> bool:
    """Whether `content` has the hash that the Hub knows it by."""
    algorithm, value = known
    return (sha256_of(content) if algorithm == "sha256" else git_oid(content)) == value


def remote_hashes(api: HfApi, repo: str, kind: str, commit: str) -> dict[str, Known]:
    """Every file of a commit by its path."""
    from huggingface_hub import RepoFile

    tree = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
    return {entry.path: _known(entry) for entry in tree if isinstance(entry, RepoFile)}


def _known(file: RepoFile) -> Known:
    return ("sha256", file.lfs.sha256) if file.lfs else ("git", file.blob_id)


def size_of(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def sha256_of(content: Content) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(content):
        digest.update(chunk)
    return digest.hexdigest()


def git_oid(content: Content) -> str:
    digest = hashlib.sha1(b"blob %d\0" % size_of(content), usedforsecurity=False)
    for chunk in chunks(content):
        digest.update(chunk)
    return digest.hexdigest()


def chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


RepoType = Literal["dataset", "model"]
OWNED: Mapping[RepoType, tuple[str, ...]] = {
    "dataset": ("data/*.parquet", "rejected/*.parquet"),
    "model": ("*.safetensors", "*.safetensors.index.json"),
}


@dataclass(frozen=True)
class UploadBundle:
    """Files to push: on disk, or bytes that were made for the purpose.

    `own_texts` are the user's words that may name paths and addresses (the
    instruction); `name` is what a person calls the content.
    """

    kind: RepoType
    name: str
    files: Mapping[str, Path | bytes]
    tag: str
    user_texts: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(size_of(content) for content in self.files.values())

    def outdated(self, path: str) -> bool:
        """Whether a file in the repository is of an earlier push and would be read with ours."""
        return path not in self.files and any(fnmatch(path, one) for one in OWNED[self.kind])


def dataset_bundle(version: DatasetVersion) -> UploadBundle:
    """A dataset version: its folder, as it is."""
    manifest = version.manifest
    names = sorted({*manifest.files, FILE})
    return UploadBundle(
        kind="dataset",
        name=f"dataset version {version.name}",
        files={name: version.path / name for name in names},
        tag=version.name,
        user_texts=(manifest.instruction, *(manifest.labels or ())),
    )
