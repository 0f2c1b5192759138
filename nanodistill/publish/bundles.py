"""push_run(): from a run to a repository, with a card and nanodistill.json beside the weights.

An adapter's own config names its base by the path it was trained from; what is pushed names it
without local folders. A fused model is pushed as export left it. The tag covers the training run
and the content: another card on the same weights is another tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from nanodistill.config import DistillationConfig
from nanodistill.dataset import Manifest, open_version, repair_index, verify
from nanodistill.errors import InputError
from nanodistill.evaluation.results import RESULTS, read_results
from nanodistill.events import Listener, ignore
from nanodistill.exporting.export_manifest import FILE, ExportManifest, Lineage, read_manifest
from nanodistill.exporting.trained_adapter import find_trained_adapter
from nanodistill.hub import Hub, PushResult, UploadBundle, dataset_bundle, push
from nanodistill.hub.pull import open_dataset, parse_repo
from nanodistill.hub.upload_bundle import Content, sha256_of
from nanodistill.publish.model_card import Shown, card_of
from nanodistill.run_dir import RunFolder, read_json
from nanodistill.types import tagged_hash

CARD = "README.md"
FORMAT = 1


def adapter_bundle(
    config: DistillationConfig,
    run: RunFolder,
    repo: str,
    *,
    run_id: str | None,
    dataset: str | Path | None,
    on_event: Listener,
) -> UploadBundle:
    """The best adapter of a training run (the latest).

    Args:
        dataset: what it was trained on, where that is no version of this run.

    Raises:
        InputError: there is none, or its base is not the config's student any more.
    """
    trained_on = None if dataset is None else open_dataset(dataset, run)
    source = find_trained_adapter(config, run, run_id, trained_on, on_event)
    told = ExportManifest.of(
        config, source, to="mlx", form="as base", key="", baked=False, parity=None
    )
    shown = Shown(
        repo=repo,
        name=config.name,
        form="adapter",
        base_kind=source.base.kind,
        lineage=told.lineage,
        task=told.task,
        dataset=source.dataset.manifest,
        results=_results(run, told.lineage),
    )
    settings = read_json(source.adapter / "adapter_config.json")
    settings["model"] = told.lineage.base
    about = {
        "format": FORMAT,
        "form": "adapter",
        "lineage": told.lineage.model_dump(mode="json"),
        "task": told.task.model_dump(mode="json"),
    }
    files: dict[str, Content] = {
        "adapters.safetensors": source.adapter / "adapters.safetensors",
        "adapter_config.json": _json(settings),
        FILE: _json(about),
    }
    return _model_bundle(shown, files)


def fused_bundle(run: RunFolder, repo: str) -> UploadBundle:
    """The exported model of the run.

    Raises:
        InputError: nothing was exported yet.
    """
    told = read_manifest(run.model) if run.model.is_dir() else None
    if told is None:
        raise InputError(
            f"{run.root} holds no exported model yet.",
            next_step="Make it first: nanodistill export RUN.toml",
        )
    shown = Shown(
        repo=repo,
        name=told.name,
        form="fused",
        base_kind="hub" if "/" in told.lineage.base else "folder",
        lineage=told.lineage,
        task=told.task,
        dataset=_dataset(run, told.lineage),
        results=_results(run, told.lineage),
        parity=told.parity,
    )
    files: dict[str, Content] = {
        path.name: path
        for path in run.model.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }
    return _model_bundle(shown, files)


def _model_bundle(shown: Shown, files: Mapping[str, Content]) -> UploadBundle:
    whole: dict[str, Content] = {**files, CARD: card_of(shown).encode()}
    content = {name: sha256_of(whole[name]) for name in sorted(whole)}
    digest = tagged_hash("nanodistill.pushed.v1", content)
    return UploadBundle(
        kind="model",
        name=f"{shown.form} of {shown.name}, training run {shown.lineage.run}",
        files=whole,
        tag=f"{shown.form}-{shown.lineage.run}-{_short(digest)}",
        user_texts=(shown.task.instruction, *(shown.task.labels or ())),
    )


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:8]


def _dataset(run: RunFolder, lineage: Lineage) -> Manifest | None:
    """What the model learned from, where this run has it."""
    for version in repair_index(run).versions:
        if version.fingerprint == lineage.fingerprint:
            return open_version(version.name, run).manifest
    return None


def _results(run: RunFolder, lineage: Lineage) -> dict[str, Any] | None:
    """The evaluation of exactly these weights, if there was one."""
    folder: Path = run.evaluation / lineage.run
    if not (folder / RESULTS).is_file():
        return None
    results = read_results(folder)
    weights = f"{lineage.base_identity}+adapter-sha256:{lineage.adapter_sha256}"
    return results if results["identities"]["student"] == weights else None


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


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
    on_event: Listener = ignore,
) -> PushResult:
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
    parcel = _bundle(config, repo, what, dataset, run_id, on_event)
    return push(parcel, repo, public=public, hub=hub, allowed=allowed, on_event=on_event)


def _bundle(
    config: DistillationConfig,
    repo: str,
    what: What,
    dataset: str | Path | None,
    run_id: str | None,
    on_event: Listener,
) -> UploadBundle:
    run = RunFolder(config.run_folder)
    if what == "dataset":
        version = open_dataset(dataset, run)
        verify(version.path)
        return dataset_bundle(version)
    if what == "adapter":
        return adapter_bundle(config, run, repo, run_id=run_id, dataset=dataset, on_event=on_event)
    return fused_bundle(run, repo)
