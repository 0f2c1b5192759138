"""Finished work of an earlier release stays finished.

A release may ask with other prompts, which are other calls with other keys. A dataset that an
earlier release completed must not be bought again for that. So where settings, inputs and policy
are still the same, its version is the answer, as it stands.
"""

from __future__ import annotations

from nanodistill import __version__
from nanodistill.dataset import DatasetVersion, config_hash, open_version
from nanodistill.errors import NoDatasetError
from nanodistill.run_dir import RunFolder
from nanodistill.synthesis.dataset_builder import describe_inputs
from nanodistill.synthesis.policy import TaskPolicy, read_policy
from nanodistill.synthesis.task import Task


def finished_version(run: RunFolder, task: Task) -> DatasetVersion | None:
    """The run's latest version, if another release completed it from the same settings. Blocks."""
    try:
        version = open_version(None, run)
    except NoDatasetError:
        return None
    manifest = version.manifest
    is_same = (
        manifest.libraries.get("nanodistill") != __version__
        and manifest.made_by == "synthesis"
        and manifest.stopped_because == "complete"
        and manifest.config_hash == config_hash(task.config)
        and manifest.inputs == describe_inputs(task)
    )
    return version if is_same and _has_same_policy(run, version) else None


def _has_same_policy(run: RunFolder, version: DatasetVersion) -> bool:
    stored, used = read_policy(run.policy), version.manifest.policy
    return stored is not None and used is not None and stored.policy == TaskPolicy(**used)
