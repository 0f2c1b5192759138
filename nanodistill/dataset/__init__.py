"""Dataset versions: what synthesis produces and all that training needs.

    version = open_version(None, run)            # the latest of a run
    version.manifest.instruction, version.rows("train"), version.counts

A version is a folder of parquet files with a manifest and a card. It never changes. `write_version`
makes one, `verify` recomputes its hashes, `diff` compares two, `export_for_edit` and `read_edit`
make a child by hand, `prune` removes versions that nothing refers to.
"""

from __future__ import annotations

from nanodistill.dataset.diff import VersionDiff, diff
from nanodistill.dataset.edit import Edit, export_for_edit, read_edit
from nanodistill.dataset.manifest import (
    Agreement,
    Calls,
    CellCount,
    InputFacts,
    Manifest,
    RowCounts,
    SplitFacts,
    StageCount,
    TokenUsage,
    VersionFacts,
)
from nanodistill.dataset.provenance import config_hash, public_config, public_name
from nanodistill.dataset.prune import Prunable, prunable, prune
from nanodistill.dataset.read import (
    DatasetVersion,
    open_folder,
    open_version,
    parse_dataset_ref,
    repair_index,
)
from nanodistill.dataset.verify import VerifyResult, verify
from nanodistill.dataset.write import VersionDraft, write_version

__all__ = [
    "Agreement",
    "Calls",
    "CellCount",
    "DatasetVersion",
    "Edit",
    "InputFacts",
    "Manifest",
    "Prunable",
    "RowCounts",
    "SplitFacts",
    "StageCount",
    "TokenUsage",
    "VerifyResult",
    "VersionDiff",
    "VersionDraft",
    "VersionFacts",
    "config_hash",
    "diff",
    "export_for_edit",
    "open_folder",
    "open_version",
    "parse_dataset_ref",
    "prunable",
    "prune",
    "public_config",
    "public_name",
    "read_edit",
    "repair_index",
    "verify",
    "write_version",
]
