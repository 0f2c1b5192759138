"""What would go wrong, found before the model is loaded.

Rows are turned into tokens as training will see them; rows that are too long
are dropped and counted, never cut; sizes, memory, disk, load and time are set
against what there is. What can't work stops here with exit code 2, all of it at
once, each with the number that would do. The rest is told in one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from nanodistill.config.mlx_config import yaml_text
from nanodistill.errors import ConfigError
from nanodistill.events import Listener, Table
from nanodistill.hardware import GIB, Hardware, detect_hardware, preset
from nanodistill.models.resolve import ResolvedModel
from nanodistill.run_dir import RunFolder
from nanodistill.training.adapters import ModelMetadata, read_model_metadata
from nanodistill.training.batches import BatchSampler, fit_window
from nanodistill.training.metrics_log import load_trackio
from nanodistill.training.preflight_checks import (
    Finding,
    ResourceEstimate,
    SplitReport,
    Workload,
    estimate,
    held_already,
    machine_found,
    plan_found,
    problems_of,
    rows_found,
    template_found,
    too_big,
)
from nanodistill.training.resource_guard import (
    MachineReadings,
    ResourceLimits,
    ResourceUsage,
    share_of_others,
)
from nanodistill.training.runs import RunEntry
from nanodistill.training.student_identity import find_student, tokenizer_settings
from nanodistill.training.tokenize import TokenRows, load_tokenizer, shared_tokens, tokenize_rows
from nanodistill.training.training_options import TrainingOptions
from nanodistill.training.validation_score import Scoring, scoring_identity
from nanodistill.training.worker import TrainingJob

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.dataset import DatasetVersion
    from nanodistill.types import Split

SPLITS: tuple[Split, ...] = ("train", "valid")


@dataclass(frozen=True)
class RunIdentity:
    """Which run it is: known before any row is read. `presets` are those that were used."""

    run_id: str
    dataset: Mapping[str, str]
    options: TrainingOptions
    preset: str
    presets: Mapping[str, Any]
    hardware: Hardware
    student: ResolvedModel

    @property
    def entry(self) -> RunEntry:
        return RunEntry(
            run=self.run_id,
            dataset=self.dataset["version"],
            dataset_fingerprint=self.dataset["fingerprint"],
            student=self.student.name,
            student_identity=self.student.identity,
            train_on=self.options.settings.train_on,
        )


def identify(
    config: DistillationConfig, dataset: DatasetVersion, on_event: Listener
) -> RunIdentity:
    """The run that training `config` on `dataset` is.

    Raises:
        ModelError: the student is not there.
    """
    hardware = detect_hardware()
    name, values = preset(hardware)
    options = TrainingOptions.of(config, values)
    student = find_student(config, RunFolder(config.run_folder), on_event)
    scored = options.settings.best_by == "score"
    scoring = scoring_identity(config, dataset) if scored else None
    return RunIdentity(
        run_id=options.run_id(dataset.fingerprint, student.identity, scoring),
        dataset={
            "path": str(dataset.path),
            "version": dataset.name,
            "fingerprint": dataset.fingerprint,
        },
        options=options,
        preset=name,
        presets={key: values[key] for key in values if key not in config.model_fields_set},
        hardware=hardware,
        student=student,
    )


@dataclass(frozen=True)
class Preflight:
    """A run that is ready to be trained, and all that was found about it."""

    known: RunIdentity
    limits: ResourceLimits
    facts: ModelMetadata
    splits: Mapping[str, SplitReport]
    deal: BatchSampler
    estimate: ResourceEstimate
    findings: tuple[Finding, ...]
    scored_by: Scoring | None

    @property
    def options(self) -> TrainingOptions:
        return self.known.options

    @property
    def updates(self) -> int:
        return self.options.updates(self.deal.updates_per_epoch)

    @property
    def rows(self) -> dict[str, int]:
        kept = {name: len(report.rows) for name, report in self.splits.items()}
        every = sum(len(report.all_lengths) for report in self.splits.values())
        return kept | {"dropped": every - sum(kept.values())}

    @property
    def token_rows(self) -> dict[str, TokenRows]:
        return {name: report.rows for name, report in self.splits.items()}

    def job(self) -> TrainingJob:
        return TrainingJob(
            student=self.known.student.name,
            options=self.options,
            limits=self.limits,
            data="+".join(rows.fingerprint for rows in self.token_rows.values()),
            window=self.deal.window,
            micro_batch=self.options.settings.batch_size,
            checkpointing=self.options.settings.gradient_checkpointing,
            parent=0,
            scored_by=self.scored_by,
        )

    def config(self) -> dict[str, Any]:
        """What is trained and how, for people."""
        student = self.known.student
        return {
            "run": self.known.run_id,
            "dataset": dict(self.known.dataset),
            "student": {"name": student.name, "identity": student.identity},
            **self.options.to_json(),
            "limits": dict(vars(self.limits)),
            "presets": dict(self.known.presets),
            "machine": self.known.hardware.describe(),
        }

    def yaml(self) -> str:
        """The same for `mlx_lm lora`, which takes no more layers than there are, and modules by
        their paths alone."""
        config = {"model": str(self.known.student.path), **self.options.mlx_lm(self.updates)}
        config["num_layers"] = min(config["num_layers"], self.facts.layers)
        names = self.options.settings.target_modules
        if names is not None and "lora_parameters" in config:
            paths = self.facts.paths_of(names)
            config["lora_parameters"] = config["lora_parameters"] | {"keys": paths or names}
        return yaml_text(config)

    def table(self) -> Table:
        lines = tuple((found.what, found.found, found.remark) for found in self.findings)
        return Table("Preflight", ("", "found", "remark"), lines)

    def to_json(self) -> dict[str, Any]:
        reports = self.splits.values()
        seconds = self.estimate.seconds
        return {
            "longest_tokens": max(n for report in reports for n in report.all_lengths),
            "max_seq_length": self.options.settings.max_seq_length,
            "too_long": {name: report.too_long for name, report in self.splits.items()},
            "forged_turns": {name: len(report.forged) for name, report in self.splits.items()},
            "no_room": {name: report.no_room for name, report in self.splits.items()},
            "empty": sum(report.empty for report in reports),
            "joined": sum(report.joined for report in reports),
            "unended": sum(report.unended for report in reports),
            "double_bos": any(report.double_bos for report in reports),
            "instruction_in_user_turn": any(report.moves_system for report in reports),
            "updates": self.updates,
            "updates_per_epoch": self.deal.updates_per_epoch,
            "rows_per_update": self.options.rows_per_update,
            "memory_gb": round(self.estimate.memory / GIB, 2),
            "disk_gb": round(self.estimate.disk / GIB, 3),
            "seconds": None if seconds is None else round(seconds),
            "hardware": self.known.hardware.describe(),
            "presets": dict(self.known.presets),
            "remarks": [f"{f.what}: {f.remark}" for f in self.findings if f.remark],
        }


def preflight(
    known: RunIdentity, config: DistillationConfig, dataset: DatasetVersion, run: RunFolder
) -> Preflight:
    """Look at everything that the run depends on.

    Raises:
        ConfigError: with all that can't work.
        ModelError: the student can't be read.
    """
    options = known.options
    readings = MachineReadings(psutil.Process())
    held, cpu = readings.memory(), readings.cpu()
    if options.settings.report_to == "trackio":
        load_trackio()
    facts = read_model_metadata(known.student.path)
    splits = _read_splits(dataset, known.student, options, run)
    in_use = ResourceUsage(held, share_of_others(cpu, readings.cpu()))
    limits = ResourceLimits(
        config.max_memory_gb, config.memory_hard_limit_gb, config.cpu_capacity_percent
    )
    problems = [*problems_of(splits, options, facts), *held_already(in_use, limits)]
    if problems:
        raise ConfigError("This can't be trained:", problems)
    scored_by = None
    if options.settings.best_by == "score":
        scored_by = Scoring.of(config, dataset, splits["valid"].numbers)
    deal = _deal(splits, options)
    needed = estimate(facts, options, _load(splits, deal, options), known.hardware)
    if needed.weights > limits.memory_hard_limit_gb * GIB:
        raise ConfigError("This can't be trained:", [too_big(needed, limits)])
    used = ", ".join(f"{name} = {value}" for name, value in known.presets.items())
    found = [
        *rows_found(splits, options),
        *template_found(splits),
        *plan_found(splits, deal, options, facts),
        *machine_found(needed, limits, run, known.hardware, in_use),
        Finding("preset", f"{known.preset}: {used or 'nothing, every field of it is set'}"),
    ]
    return Preflight(known, limits, facts, splits, deal, needed, tuple(found), scored_by)


def _read_splits(
    dataset: DatasetVersion, student: ResolvedModel, options: TrainingOptions, run: RunFolder
) -> dict[str, SplitReport]:
    settings = options.settings
    kwargs = tokenizer_settings(settings.tokenizer_kwargs, student.path, run)
    tokenizer = load_tokenizer(student.path, kwargs)
    return {
        name: SplitReport.of(
            tokenize_rows(_asked_for(dataset, name, options), tokenizer, settings.train_on),
            settings.max_seq_length,
            mask_prompt=options.beyond.mask_prompt,
        )
        for name in SPLITS
    }


def _asked_for(
    dataset: DatasetVersion, split: Split, options: TrainingOptions
) -> Iterator[Mapping[str, Any]]:
    """The rows of a split; of the validation rows as many as make `val_batches`."""
    most = options.beyond.val_batches * options.settings.batch_size
    limit = most if split == "valid" and most >= 0 else None
    return islice(dataset.rows(split), limit)


def _deal(splits: Mapping[str, SplitReport], options: TrainingOptions) -> BatchSampler:
    """The order of the rows, fit to what is left of them once shared tokens are out."""
    rows = splits["train"].rows
    shared = shared_tokens([report.rows for report in splits.values()])
    batches = options.settings.gradient_accumulation_steps
    return fit_window(rows.lengths - shared, options.rows_per_update, batches, 1, options.seed)


def _load(
    splits: Mapping[str, SplitReport], deal: BatchSampler, options: TrainingOptions
) -> Workload:
    """The work of the run, for a student of which all work can be spared that forward.py spares."""
    train, valid = splits["train"].rows, splits["valid"].rows
    settings = options.settings
    updates = options.updates(deal.updates_per_epoch)
    epochs = updates / deal.updates_per_epoch
    batch = min(settings.batch_size, len(train))
    shared = int(train.lengths[0] - deal.lengths[0])
    own = int(deal.lengths.sum())
    scored = int(valid.lengths.sum()) - shared * len(valid)
    validations = updates // options.eval_every(updates, len(valid)) + 1
    passes = epochs if settings.num_train_epochs == 1 else 1
    return Workload(
        rows=batch,
        width=int(train.lengths.max()),
        targets=int(np.sort(train.targets)[-batch:].sum()),
        below_tokens=int(passes * own + scored),
        trained_tokens=int(epochs * own) + shared * updates * settings.gradient_accumulation_steps,
        trained_targets=int(epochs * train.targets.sum()),
        scored_tokens=validations * scored,
    )
