"""What is pushed: files by their path in a repository, and the tag that they get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from nanodistill.dataset.manifest import FILE
from nanodistill.dataset.version import DatasetVersion
from nanodistill.hub.hashes import size_of

RepoType = Literal["dataset", "model"]
OWNED: Mapping[RepoType, tuple[str, ...]] = {
    "dataset": ("data/*.parquet", "rejected/*.parquet"),
    "model": ("*.safetensors", "*.safetensors.index.json"),
}


@dataclass(frozen=True)
class Parcel:
    """Files to push: on disk, or bytes that were made for the purpose.

    `own_texts` are the user's words that may name paths and addresses (the
    instruction); `name` is what a person calls the content.
    """

    kind: RepoType
    name: str
    files: Mapping[str, Path | bytes]
    tag: str
    own_texts: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(size_of(content) for content in self.files.values())

    def outdated(self, path: str) -> bool:
        """Whether a file in the repository is of an earlier push and would be read with ours."""
        return path not in self.files and any(fnmatch(path, one) for one in OWNED[self.kind])


def dataset_parcel(version: DatasetVersion) -> Parcel:
    """A dataset version: its folder, as it is."""
    manifest = version.manifest
    names = sorted({*manifest.files, FILE})
    return Parcel(
        kind="dataset",
        name=f"dataset version {version.name}",
        files={name: version.path / name for name in names},
        tag=version.name,
        own_texts=(manifest.instruction, *(manifest.labels or ())),
    )
