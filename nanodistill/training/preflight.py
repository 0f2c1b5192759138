"""What would go wrong, found before the model is loaded.

Rows are turned into tokens as training will see them; rows that are too long or
have nothing to learn from are dropped and counted, never cut; sizes, memory,
disk and time are set against what there is. What can't work stops here with
exit code 2 and the number that would; the rest is told in one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanodistill.config.mlx_config import yaml_text
from nanodistill.errors import InputError
from nanodistill.events import Listener, Table
from nanodistill.models.resolve import ResolvedModel, resolve_model
from nanodistill.training.batches import fit_window, padding_share
from nanodistill.training.child import Job
from nanodistill.training.encode import encode, load_tokenizer
from nanodistill.training.guard import Limits
from nanodistill.training.options import TrainingOptions
from nanodistill.training.runs import RunEntry
from nanodistill.training.tokens import TokenRows

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.dataset import DatasetVersion

MOST_DROPPED = 0.1


@dataclass(frozen=True)
class Preflight:
    run_id: str
    dataset: Mapping[str, str]
    options: TrainingOptions
    limits: Limits
    student: ResolvedModel
    splits: Mapping[str, TokenRows]
    dropped: int
    updates: int
    entry: RunEntry
    findings: tuple[tuple[str, str], ...]

    @property
    def rows(self) -> dict[str, int]:
        return {
            "train": len(self.splits["train"]),
            "valid": len(self.splits["valid"]),
            "dropped": self.dropped,
        }

    def job(self) -> Job:
        return Job(
            student=str(self.student.path),
            options=self.options,
            limits=self.limits,
            data=f"{self.splits['train'].fingerprint}+{self.splits['valid'].fingerprint}",
            micro_batch=self.options.settings.batch_size,
            checkpointing=self.options.settings.gradient_checkpointing,
            parent=0,
        )

    def yaml(self) -> str:
        return yaml_text({"model": str(self.student.path), **self.options.mlx_lm(self.updates)})

    def table(self) -> Table:
        return Table("Preflight", ("what", "found"), self.findings)

    def to_json(self) -> dict[str, Any]:
        return dict(self.findings)


def preflight(config: DistillationConfig, dataset: DatasetVersion, listen: Listener) -> Preflight:
    student = resolve_model(config.student, listener=listen)
    options = TrainingOptions.of(config, {})
    tokenizer = load_tokenizer(student.path, config.tokenizer_kwargs)
    splits: dict[str, TokenRows] = {}
    dropped = total = 0
    longest = 0
    for name in ("train", "valid"):
        encoded = encode(dataset.rows(name), tokenizer, options.settings.train_on)
        kept = [e for e in encoded.examples if len(e.tokens) <= options.settings.max_seq_length]
        total += len(encoded.examples)
        dropped += len(encoded.examples) - len(kept)
        longest = max([longest, *(len(e.tokens) for e in encoded.examples)])
        splits[name] = TokenRows.of(kept)
    if dropped > MOST_DROPPED * total:
        raise InputError(
            f"{dropped} of {total} rows are longer than max_seq_length = "
            f"{options.settings.max_seq_length}.",
            next_step=f"max_seq_length = {longest} holds them all.",
        )
    deal = fit_window(
        splits["train"].lengths,
        options.rows_per_update,
        options.settings.gradient_accumulation_steps,
        1,
        options.seed,
    )
    run_id = options.run_id(dataset.fingerprint, student.identity, None)
    return Preflight(
        run_id=run_id,
        dataset={
            "path": str(dataset.path),
            "version": dataset.name,
            "fingerprint": dataset.fingerprint,
        },
        options=options,
        limits=Limits(
            config.max_memory_gb, config.memory_hard_limit_gb, config.cpu_capacity_percent
        ),
        student=student,
        splits=splits,
        dropped=dropped,
        updates=options.updates(deal.updates_per_epoch),
        entry=RunEntry(
            run_id,
            dataset.name,
            dataset.fingerprint,
            config.student,
            student.identity,
            options.settings.train_on,
        ),
        findings=(
            ("rows", f"{len(splits['train'])} train, {len(splits['valid'])} valid"),
            ("padding", f"{padding_share(deal, deal.updates_per_epoch and 1, 1):.1%}"),
        ),
    )
