"""Everything that can go wrong in a run, looked for before the model is loaded.

Rows are tokenized as training will see them. Rows longer than `max_seq_length` are
skipped, never truncated. Memory, disk, processor load and time are compared with
what the machine has. Whatever can't work raises one ConfigError with every problem
and the value that would work; the rest goes into one table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from nanodistill.config.mlx_config import yaml_text
from nanodistill.errors import ConfigError, Problem
from nanodistill.events import Listener, Table
from nanodistill.hardware import GIB, Hardware, detect_hardware, free_memory, preset
from nanodistill.models.resolve import ResolvedModel
from nanodistill.run_dir import RunFolder
from nanodistill.training.batches import BatchSampler, fit_window, padding_share
from nanodistill.training.estimate import (
    PROCESS_BYTES,
    UNTRAINABLE,
    ModelMetadata,
    ResourceEstimate,
    Workload,
    estimate,
    read_model_metadata,
)
from nanodistill.training.metrics_log import load_trackio
from nanodistill.training.resource_guard import (
    MachineReadings,
    ResourceLimits,
    ResourceUsage,
    share_of_others,
)
from nanodistill.training.runs import RunEntry
from nanodistill.training.student_identity import find_student, tokenizer_settings
from nanodistill.training.tokenize import (
    TokenizedSplit,
    TokenRows,
    load_tokenizer,
    shared_tokens,
    tokenize_rows,
)
from nanodistill.training.training_options import (
    Scoring,
    TrainingJob,
    TrainingOptions,
    scoring_identity,
)

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.dataset import DatasetVersion
    from nanodistill.types import Split

SPLITS: tuple[Split, ...] = ("train", "valid")
# The share of rows that may be skipped as too long. A few outliers are not worth stopping for;
# more than that, and the user paid for rows that teach nothing.
MAX_DROPPED = 0.1


@dataclass(frozen=True)
class RunIdentity:
    """Which run this is, known before any row is read. `presets` are the values in use."""

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
    """Resolve which run training `config` on `dataset` is.

    Raises:
        ModelError: the student can't be found.
    """
    hardware = detect_hardware()
    name, values = preset(hardware)
    options = TrainingOptions.from_config(config, values)
    student = find_student(config, RunFolder(config.run_folder), on_event)
    by_score = options.settings.best_by == "score"
    scoring = scoring_identity(config, dataset) if by_score else None
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
class SplitReport:
    """One split under the student's tokenizer.

    Attributes:
        rows: the rows that fit.
        indices: their places in the dataset's split.
        all_lengths: tokens of every row, those that don't fit included.
        no_room: rows that are too long because of the prompt alone.
        too_long: rows that are too long.
    """

    rows: TokenRows
    indices: Sequence[int]
    all_lengths: Sequence[int]
    no_room: int
    too_long: int
    tokenized: TokenizedSplit

    @classmethod
    def from_tokens(
        cls, tokenized: TokenizedSplit, max_length: int, *, mask_prompt: bool
    ) -> SplitReport:
        examples = tokenized.examples
        short = [n for n, example in enumerate(examples) if len(example.tokens) <= max_length]
        indices = [n for n in short if n not in tokenized.forged]
        fits = [examples[n] for n in indices]
        return cls(
            rows=TokenRows.from_examples(fits if mask_prompt else [e.unmasked() for e in fits]),
            indices=indices,
            all_lengths=[len(example.tokens) for example in examples],
            no_room=sum(example.prompt >= max_length for example in examples),
            too_long=len(examples) - len(short),
            tokenized=tokenized,
        )


@dataclass(frozen=True)
class Finding:
    """A line of the preflight table."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Preflight:
    """A run that is ready to be trained, and everything preflight found."""

    identity: RunIdentity
    limits: ResourceLimits
    model: ModelMetadata
    splits: Mapping[str, SplitReport]
    sampler: BatchSampler
    estimate: ResourceEstimate
    findings: tuple[Finding, ...]
    scored_by: Scoring | None

    @property
    def options(self) -> TrainingOptions:
        return self.identity.options

    @property
    def updates(self) -> int:
        return self.options.updates(self.sampler.updates_per_epoch)

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
            student=self.identity.student.name,
            options=self.options,
            limits=self.limits,
            data="+".join(rows.fingerprint for rows in self.token_rows.values()),
            window=self.sampler.window,
            micro_batch=self.options.settings.batch_size,
            checkpointing=self.options.settings.gradient_checkpointing,
            parent=0,
            scored_by=self.scored_by,
        )

    def config(self) -> dict[str, Any]:
        """The run's config.json."""
        student = self.identity.student
        return {
            "run": self.identity.run_id,
            "dataset": dict(self.identity.dataset),
            "student": {"name": student.name, "identity": student.identity},
            **self.options.to_json(),
            "limits": asdict(self.limits),
            "presets": dict(self.identity.presets),
            "machine": self.identity.hardware.describe(),
        }

    def yaml(self) -> str:
        """The same run for `mlx_lm lora -c FILE`.

        mlx-lm fails on more layers than the model has, and knows modules by full path only.
        """
        config = {"model": str(self.identity.student.path), **self.options.mlx_lm(self.updates)}
        config["num_layers"] = min(config["num_layers"], self.model.layers)
        names = self.options.settings.target_modules
        if names is not None and "lora_parameters" in config:
            paths = self.model.paths_of(names)
            config["lora_parameters"] = config["lora_parameters"] | {"keys": paths or names}
        return yaml_text(config)

    def table(self) -> Table:
        lines = tuple((f.name, f.value, f.remark) for f in self.findings)
        return Table("Preflight", ("", "value", "remark"), lines)

    def to_json(self) -> dict[str, Any]:
        tokenized = [report.tokenized for report in self.splits.values()]
        seconds = self.estimate.seconds
        return {
            "longest_tokens": max(n for r in self.splits.values() for n in r.all_lengths),
            "max_seq_length": self.options.settings.max_seq_length,
            "too_long": {name: report.too_long for name, report in self.splits.items()},
            "forged_turns": {
                name: len(report.tokenized.forged) for name, report in self.splits.items()
            },
            "no_room": {name: report.no_room for name, report in self.splits.items()},
            "empty": sum(split.empty for split in tokenized),
            "joined": sum(split.prompt_reencoded for split in tokenized),
            "unended": sum(split.eos_added for split in tokenized),
            "double_bos": any(split.double_bos for split in tokenized),
            "instruction_in_user_turn": any(split.moves_system for split in tokenized),
            "updates": self.updates,
            "updates_per_epoch": self.sampler.updates_per_epoch,
            "rows_per_update": self.options.rows_per_update,
            "memory_gb": round(self.estimate.memory / GIB, 2),
            "disk_gb": round(self.estimate.disk / GIB, 3),
            "seconds": None if seconds is None else round(seconds),
            "hardware": self.identity.hardware.describe(),
            "presets": dict(self.identity.presets),
            "remarks": [f"{f.name}: {f.remark}" for f in self.findings if f.remark],
        }


def preflight(
    identity: RunIdentity, config: DistillationConfig, dataset: DatasetVersion, run: RunFolder
) -> Preflight:
    """Check everything that the run depends on.

    Raises:
        ConfigError: with every problem that would make training impossible.
        ModelError: the student can't be read.
    """
    options, settings = identity.options, identity.options.settings
    readings = MachineReadings(psutil.Process())
    memory, cpu = readings.memory(), readings.cpu()
    if settings.report_to == "trackio":
        load_trackio()
    model = read_model_metadata(identity.student.path)
    kwargs = tokenizer_settings(settings.tokenizer_kwargs, identity.student.path, run)
    tokenizer = load_tokenizer(identity.student.path, kwargs)
    splits: dict[str, SplitReport] = {
        name: SplitReport.from_tokens(
            tokenize_rows(_used_rows(dataset, name, options), tokenizer, settings.train_on),
            settings.max_seq_length,
            mask_prompt=options.overrides.mask_prompt,
        )
        for name in SPLITS
    }
    # Load is measured over the time that tokenizing took.
    in_use = ResourceUsage(memory, share_of_others(cpu, readings.cpu()))
    limits = ResourceLimits(
        config.max_memory_gb, config.memory_hard_limit_gb, config.cpu_capacity_percent
    )
    problems = [*_problems(splits, options, model), *_memory_in_use(in_use, limits)]
    if problems:
        raise ConfigError("Training can't start:", problems)
    by_score = settings.best_by == "score"
    scored_by = Scoring.from_config(config, dataset, splits["valid"].indices) if by_score else None
    rows = splits["train"].rows
    # Tokens that all rows share are computed once and don't affect padding.
    shared = shared_tokens([report.rows for report in splits.values()])
    sampler = fit_window(
        rows.lengths - shared,
        options.rows_per_update,
        settings.gradient_accumulation_steps,
        1,
        options.seed,
    )
    needed = estimate(
        model, options, _workload(splits, sampler, options, shared), identity.hardware
    )
    if needed.weights > limits.memory_hard_limit_gb * GIB:
        text = (
            f"is {limits.memory_hard_limit_gb:g}, and the student's weights alone take "
            f"{needed.weights / GIB:.1f} GiB: raise it, or choose a smaller student"
        )
        raise ConfigError("Training can't start:", [Problem("memory_hard_limit_gb", text)])
    used = ", ".join(f"{name} = {value}" for name, value in identity.presets.items())
    findings = [
        *(_rows_finding(name, report, settings.max_seq_length) for name, report in splits.items()),
        _template_finding([report.tokenized for report in splits.values()]),
        *_plan_findings(splits, sampler, options, model),
        *_machine_findings(needed, limits, run, identity.hardware, in_use),
        Finding("preset", f"{identity.preset}: {used or 'unused, the run sets all its fields'}"),
    ]
    return Preflight(identity, limits, model, splits, sampler, needed, tuple(findings), scored_by)


def _used_rows(
    dataset: DatasetVersion, split: Split, options: TrainingOptions
) -> Iterator[Mapping[str, Any]]:
    """The rows of a split, as many validation rows as `val_batches` allows."""
    most = options.overrides.val_batches * options.settings.batch_size
    limit = most if split == "valid" and most >= 0 else None
    return islice(dataset.rows(split), limit)


def _workload(
    splits: Mapping[str, SplitReport], sampler: BatchSampler, options: TrainingOptions, shared: int
) -> Workload:
    """The run's work, if the student allows every saving of forward.py."""
    train, valid = splits["train"].rows, splits["valid"].rows
    settings = options.settings
    updates = options.updates(sampler.updates_per_epoch)
    epochs = updates / sampler.updates_per_epoch
    batch = min(settings.batch_size, len(train))
    own = int(sampler.lengths.sum())
    scored = int(valid.lengths.sum()) - shared * len(valid)
    validations = updates // options.eval_every(updates, len(valid)) + 1
    # With several epochs the outputs of the layers below are kept after the first.
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


def _problems(
    splits: Mapping[str, SplitReport], options: TrainingOptions, model: ModelMetadata
) -> Iterator[Problem]:
    settings = options.settings
    reports = splits.values()
    total = sum(len(report.all_lengths) for report in reports)
    dropped = sum(report.too_long for report in reports)
    if not splits["train"].all_lengths:
        yield Problem("dataset", "has no training rows")
    elif dropped and (settings.long_rows == "error" or dropped > MAX_DROPPED * total):
        why = 'long_rows is "error"' if settings.long_rows == "error" else "more than a tenth"
        yield Problem(
            "max_seq_length",
            f"is {settings.max_seq_length}: {dropped} of {total} rows are longer ({why}), "
            f"{sum(report.no_room for report in reports)} of them in the prompt alone; set "
            f"max_seq_length = {max(n for r in reports for n in r.all_lengths)} to keep all rows",
        )
    forged = [mark for report in reports for mark in report.tokenized.forged.values()]
    if len(forged) > MAX_DROPPED * total:
        yield Problem(
            "student",
            f"writes turns in plain text, such as '{forged[0]}', and {len(forged)} of {total} rows "
            "hold that in their input (more than a tenth); choose a student whose turns are marked "
            "by special tokens, or remove such text from the rows",
        )
    if not len(splits["valid"].rows):
        by_validation = {
            "early_stopping_patience": settings.early_stopping_patience is not None,
            "best_by": settings.best_by == "score",
        }
        for name, is_set in by_validation.items():
            if is_set:
                yield Problem(name, "needs validation rows, and the dataset has none")
    if model.architecture in UNTRAINABLE:
        why = UNTRAINABLE[model.architecture]
        yield Problem("student", f"is a {model.architecture} model, which can't be trained: {why}")


def _memory_in_use(in_use: ResourceUsage, limits: ResourceLimits) -> list[Problem]:
    """Training would wait forever for memory that only this process can free."""
    used = in_use.memory / GIB
    if used <= limits.max_memory_gb:
        return []
    return [
        Problem(
            "max_memory_gb",
            f"is {limits.max_memory_gb:g}, but this process and its children already use "
            f"{used:.1f} GiB, so training would pause at once; raise it, or train in a "
            "separate process",
        )
    ]


def _rows_finding(name: str, report: SplitReport, max_length: int) -> Finding:
    total = len(report.all_lengths)
    if not total:
        remark = "no validation rows: the final weights are kept, not the best"
        return Finding(f"{name} rows", "0", remark if name == "valid" else "")
    median, high = np.percentile(report.all_lengths, [50, 95])
    count = f"{len(report.rows)} of {total}" if len(report.rows) < total else f"{total}"
    value = (
        f"{count}; median {median:.0f} tokens, 95% up to {high:.0f}, longest "
        f"{max(report.all_lengths)}; {int(report.rows.targets.sum())} target tokens"
    )
    remarks = []
    if report.too_long:
        prompts = f" ({report.no_room} of them in the prompt alone)" if report.no_room else ""
        remarks.append(f"{report.too_long} longer than max_seq_length = {max_length}{prompts}")
    if forged := report.tokenized.forged:
        remarks.append(
            f"{len(forged)} skipped whose input starts a turn: '{next(iter(forged.values()))}', "
            "which the chat template writes in plain text"
        )
    if report.tokenized.empty:
        remarks.append(f"{report.tokenized.empty} with an empty output teach an empty answer")
    return Finding(f"{name} rows", value, "; ".join(remarks))


def _template_finding(splits: Sequence[TokenizedSplit]) -> Finding:
    reencoded = sum(split.prompt_reencoded for split in splits)
    eos_added = sum(split.eos_added for split in splits)
    remarks = []
    if any(split.moves_system for split in splits):
        remarks.append("no system role: the instruction is prepended to the first user turn")
    if reencoded:
        remarks.append(
            f"the prompts of {reencoded} rows change once the answer is there; these rows use "
            "the prompt that generation sees"
        )
    if eos_added:
        remarks.append(f"{eos_added} answers have no end token; one is appended")
    if any(split.double_bos for split in splits):
        remarks.append("starts with two beginning-of-text tokens")
    return Finding("chat template", "see remark" if remarks else "ok", "; ".join(remarks))


def _plan_findings(
    splits: Mapping[str, SplitReport],
    sampler: BatchSampler,
    options: TrainingOptions,
    model: ModelMetadata,
) -> list[Finding]:
    settings, rows = options.settings, splits["train"].rows
    per_epoch = sampler.updates_per_epoch
    padding = padding_share(sampler, settings.gradient_accumulation_steps, 1)
    one_update = len(rows) < options.rows_per_update
    wanted = model.layers if options.overrides.all_layers else settings.lora_layers
    too_many = wanted > model.layers
    too_long = model.context is not None and int(rows.lengths.max()) > model.context
    return [
        Finding(
            "updates",
            f"{options.updates(per_epoch)}, {per_epoch} per epoch, of {options.rows_per_update} "
            f"rows; {padding:.1%} padding",
            "all rows fit into one update" if one_update else "",
        ),
        Finding(
            "layers trained",
            f"{min(wanted, model.layers)} of {model.layers} ({settings.fine_tune_type})",
            f"lora_layers = {wanted} is more than the student has" if too_many else "",
        ),
        Finding(
            "student",
            f"{model.architecture}, {model.parameters / 1e6:,.0f} M weights in {model.stored}",
            f"its context is {model.context} tokens, and rows are longer" if too_long else "",
        ),
    ]


def _machine_findings(
    needed: ResourceEstimate,
    limits: ResourceLimits,
    run: RunFolder,
    hardware: Hardware,
    in_use: ResourceUsage,
) -> list[Finding]:
    memory = (needed.memory + max(0, in_use.memory - PROCESS_BYTES)) / GIB
    free = free_memory() / GIB
    if memory > limits.memory_hard_limit_gb:
        shortage = "more than memory_hard_limit_gb: training would stop; use a smaller batch_size"
    elif memory > limits.max_memory_gb:
        shortage = "more than max_memory_gb: training would pause; use a smaller batch_size"
    else:
        shortage = "more than is free: the system would swap" if memory > free else ""
    folder = next(p for p in (run.root, *run.root.absolute().parents) if p.exists())
    disk = shutil.disk_usage(folder).free
    busy = in_use.cpu > limits.cpu_share
    return [
        Finding("machine", hardware.describe()),
        Finding(
            "memory",
            f"about {memory:.1f} GiB of {limits.max_memory_gb:g} allowed; {free:.1f} free",
            shortage,
        ),
        Finding(
            "disk",
            f"about {needed.disk / GIB:.2f} GiB; {disk / GIB:.0f} free",
            "not enough for the checkpoints" if needed.disk > disk else "",
        ),
        Finding(
            "load",
            f"other programs use {in_use.cpu:.0%} of the processors; cpu_capacity_percent is "
            f"{limits.cpu_share:.0%}",
            "training will pause until they use less" if busy else "",
        ),
        Finding("time", _duration(needed.seconds)),
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return "a few seconds" if seconds < 10 else f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
