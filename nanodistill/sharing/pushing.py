"""push_run(): from a run to a repository."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from nanodistill.config import DistillationConfig
from nanodistill.dataset import open_version, verify
from nanodistill.errors import InputError
from nanodistill.events import Listener, silent
from nanodistill.hub import Hub, Parcel, Pushed, dataset_parcel, push
from nanodistill.hub.pull import parse_repo
from nanodistill.runfolder import RunFolder
from nanodistill.sharing.models import adapter_parcel, fused_parcel

What = Literal["dataset", "adapter", "fused"]


def push_run(
    config: DistillationConfig,
    repo: str,
    what: What,
    *,
    public: bool = False,
    dataset: str | Path | None = None,
    run_id: str | None = None,
    allowed: Iterable[str] = (),
    hub: Hub | None = None,
    listen: Listener = silent,
) -> Pushed:
    """Push a part of the run to `repo`: private, unless it is there and public, or asked for.

    Args:
        dataset: a version in place of the latest; of an adapter, what it was trained on, where
            that is no version of this run.
        run_id: the training run whose adapter it is, in place of the latest.

    Raises:
        InputError: there is nothing to push; and as `hub.push`.
    """
    named = parse_repo(repo)
    if named.revision is not None:
        raise InputError(
            f"A push goes to main and gets its tag by itself; {repo} names a revision.",
            next_step=f"Push to {named.repo}",
        )
    parcel = _parcel(config, repo, what, dataset, run_id, listen)
    return push(parcel, repo, public=public, hub=hub, allowed=allowed, listen=listen)


def _parcel(
    config: DistillationConfig,
    repo: str,
    what: What,
    dataset: str | Path | None,
    run_id: str | None,
    listen: Listener,
) -> Parcel:
    run = RunFolder(config.run_folder)
    if what == "dataset":
        version = open_version(dataset, run)
        verify(version.path)
        return dataset_parcel(version)
    if what == "adapter":
        return adapter_parcel(config, run, repo, run_id=run_id, dataset=dataset, listen=listen)
    return fused_parcel(run, repo)
