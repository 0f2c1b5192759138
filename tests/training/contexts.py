"""A context of training in this process: what the child puts together, with parts to exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.tiny import make_config, some_rows

import mlx.core as mx  # isort: skip - after tiny has loaded the BLAS
from mlx.nn.layers.base import Module  # isort: skip
from mlx_lm.utils import load_model  # isort: skip

from nanodistill.training import mlx_setup  # isort: skip
from nanodistill.training.batches import TrainingBatch, fit_window  # isort: skip
from nanodistill.training.checkpoints import Checkpoints, Identity, State  # isort: skip
from nanodistill.training.tokenize import tokenize_rows, load_tokenizer  # isort: skip
from nanodistill.training.forward import Arrays, Forward, select_forward_by_agreement  # isort: skip
from nanodistill.training.resource_guard import CpuTimes, ResourceGuard, ResourceLimits  # isort: skip
from nanodistill.training.loop import TrainingContext  # isort: skip
from nanodistill.training.loop import Ending, run  # isort: skip
from nanodistill.training.metrics_log import MetricsWriter, Record, read_records  # isort: skip
from nanodistill.training.training_options import TrainingOptions  # isort: skip
from nanodistill.training.tokenize import TokenRows, shared_tokens  # isort: skip


class Idle:
    """Readings of a machine with nothing on it."""

    def memory(self) -> int:
        return 0

    def cpu(self) -> CpuTimes:
        return CpuTimes(0.0, 0.0, 0.0)


def an_idle_guard() -> ResourceGuard:
    return ResourceGuard(
        ResourceLimits(64, 64, 1.0),
        Idle(),
        mlx_memory=lambda: 0,
        release=lambda: None,
        wait=lambda seconds: False,
        warn=lambda text: None,
    )


@dataclass
class Spy:
    """A forward pass that remembers the rows that went through it."""

    inner: Forward
    rows: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    @property
    def prefix(self) -> int:
        return self.inner.prefix

    def arrays(self, split: str, batch: TrainingBatch, /) -> Arrays:
        self.rows.append((split, batch.rows))
        return self.inner.arrays(split, batch)

    def loss(
        self, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
    ) -> tuple[mx.array, mx.array]:
        return self.inner.loss(inputs, where, targets, weights)

    def trained(self) -> list[int]:
        return [row for split, rows in self.rows if split == "train" for row in rows]


def token_rows(student: Path, train: int = 22, valid: int = 6) -> dict[str, TokenRows]:
    tokenizer = load_tokenizer(student, {})
    return {
        split: TokenRows.from_examples(tokenize_rows(rows, tokenizer, "cot").examples)
        for split, rows in some_rows(train, valid).splits.items()
    }


def make_context(
    student: Path, folder: Path, rows: dict[str, TokenRows] | None = None, **settings: Any
) -> TrainingContext:
    """A context from its beginning, in `folder`, with a freshly loaded student."""
    mx.disable_compile()
    folder.mkdir(parents=True, exist_ok=True)
    splits = token_rows(student) if rows is None else rows
    options = TrainingOptions.from_config(make_config(student, folder, **settings), {})
    model: Module = load_model(student)[0]
    config = mlx_setup.prepare_student(model, options)
    frozen = len(model.layers) - mlx_setup.trained_layers(model, options)
    filled = [split for split in splits.values() if len(split)]
    model.eval()
    forward = select_forward_by_agreement(
        model, splits["train"], shared=shared_tokens(filled), frozen=frozen, on_cpu=True
    )
    batches = options.settings.gradient_accumulation_steps
    lengths, size = splits["train"].lengths, options.rows_per_update
    left = {
        name: split.without_prefix(forward.prefix) for name, split in splits.items() if len(split)
    }
    return TrainingContext(
        model=model,
        options=options,
        forward=Spy(forward),
        sampler=fit_window(lengths, size, batches, 1, options.seed),
        train=left["train"],
        valid=left.get("valid"),
        micro_batch=options.settings.batch_size,
        multiple=1,
        score=None,
        checkpoints=Checkpoints(folder / "checkpoints", Identity("data", {})),
        adapter=folder / "adapters",
        adapter_config=mlx_setup.adapter_config(config, options, str(student)),
        metrics=MetricsWriter(folder / "metrics.jsonl"),
        guard=an_idle_guard(),
        stop_requested=lambda: False,
        limit_memory=lambda: None,
    )


def untrained(
    student: Path, folder: Path, rows: dict[str, TokenRows], **settings: Any
) -> TrainingContext:
    """A context that is only looked at."""
    context = make_context(student, folder, rows, **settings)
    context.metrics.close()
    return context


def train(context: TrainingContext) -> tuple[Ending, State]:
    """Go on from the latest checkpoint, or begin."""
    try:
        return run(context, context.checkpoints.latest())
    finally:
        context.metrics.close()


def asked_after(looks: int) -> Callable[[], bool]:
    """A wish to stop that is there from the given look on."""
    left = iter(range(looks))
    return lambda: next(left, None) is None


def weights(context: TrainingContext) -> bytes:
    return (context.adapter / mlx_setup.WEIGHTS).read_bytes()


def records(context: TrainingContext) -> list[Record]:
    return read_records(context.adapter.parent / "metrics.jsonl")


def spied(context: TrainingContext) -> Spy:
    assert isinstance(context.forward, Spy)
    return context.forward


__all__ = ["Spy", "asked_after", "make_context", "records", "replace", "spied", "token_rows",
           "train", "untrained", "weights"]  # fmt: skip
