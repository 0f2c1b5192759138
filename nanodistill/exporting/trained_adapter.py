"""What is exported: a training run's adapter, its base, and what it learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.dataset.read import repair_index
from nanodistill.errors import InputError
from nanodistill.evaluation.eval_models import adapter_sha256, display_name
from nanodistill.events import Listener
from nanodistill.models.resolve import ResolvedModel
from nanodistill.run_dir import RunFolder
from nanodistill.training.runs import RunEntry, read_index, training_folder
from nanodistill.training.student_identity import find_student, tokenizer_settings
from nanodistill.types import tagged_hash

TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class TrainedAdapter:
    """A training run as something to export, with how its tokenizer is loaded."""

    run: str
    base: ResolvedModel
    adapter: Path
    adapter_sha256: str
    train_on: TrainOn
    tokenizer_kwargs: Mapping[str, Any]
    dataset: DatasetVersion

    @property
    def identity(self) -> str:
        """Names the trained weights exactly."""
        return f"{self.base.identity}+adapter-sha256:{self.adapter_sha256}"

    @property
    def instruction(self) -> str:
        return self.dataset.manifest.instruction

    @property
    def base_name(self) -> str:
        """The base's name without folders of this machine."""
        return display_name(self.base)

    @property
    def base_config(self) -> dict[str, Any]:
        """config.json of the base."""
        values: dict[str, Any] = json.loads((self.base.path / "config.json").read_bytes())
        return values

    def key(self, **asked: Any) -> str:
        """A hash of all that decides what comes of exporting this as `asked`."""
        facts = {"source": self.identity, "dataset": self.dataset.fingerprint, "asked": asked}
        tokenizer = {"tokenizer_kwargs": self.tokenizer_kwargs} if self.tokenizer_kwargs else {}
        return tagged_hash("nanodistill.exporting.v1", facts | tokenizer)


def find_trained_adapter(
    config: DistillationConfig,
    run: RunFolder,
    run_id: str | None,
    dataset: DatasetVersion | None,
    on_event: Listener,
) -> TrainedAdapter:
    """The training run `run_id`, or the latest one, with the version to score it by.

    Raises:
        InputError: nothing was trained, there is no such run, or it has not ended.
        ModelError: the base is not the model any more that was trained on.
    """
    entry = _entry(run, run_id)
    folder = training_folder(run, entry.run)
    if not (folder.adapter / "adapters.safetensors").is_file():
        raise InputError(
            f"Training run {entry.run} has written no adapter yet.",
            next_step="Let it end first: nanodistill train RUN.toml goes on where it stopped.",
        )
    base = find_student(config, run, on_event)
    if base.identity != entry.student_identity:
        raise InputError(
            f"Training run {entry.run} was made on {entry.student}, and {config.student} "
            "is another model, or the same with other weights, another tokenizer, chat template or "
            "generation settings.",
            next_step="Set student to the model that was trained, or train again.",
        )
    return TrainedAdapter(
        run=entry.run,
        base=base,
        adapter=folder.adapter,
        adapter_sha256=adapter_sha256(folder.adapter),
        train_on=cast("TrainOn", entry.train_on),
        tokenizer_kwargs=tokenizer_settings(config.tokenizer_kwargs, base.path, run),
        dataset=dataset or _dataset(entry, run),
    )


def _entry(run: RunFolder, run_id: str | None) -> RunEntry:
    entries = read_index(run)
    if not entries:
        raise InputError(
            f"{run.root} holds no trained student yet.",
            next_step="Train one first: nanodistill train RUN.toml",
        )
    if run_id is None:
        return entries[-1]
    for entry in entries:
        if entry.run == run_id:
            return entry
    known = ", ".join(entry.run for entry in entries)
    raise InputError(f"{run.root} has no training run {run_id}; there are {known}.")


def _dataset(entry: RunEntry, run: RunFolder) -> DatasetVersion:
    """The version that was trained on: by its fingerprint in this run, else where it was found."""
    for version in repair_index(run).versions:
        if version.fingerprint == entry.dataset_fingerprint:
            return open_version(version.name, run)
    return open_version(entry.dataset, run)
