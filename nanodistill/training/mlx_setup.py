"""MLX in the child: its limits, and what its results depend on.

On a CPU compiling is turned off: it gains nothing there (3.3 s for a step of
SmolLM2-135M against 3.0 s without), waits 20 s for a C++ compiler at first, and
makes results depend on whether there is one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.tuner.trainer import grad_checkpoint

from nanodistill.events import Listener, Notice
from nanodistill.hardware import GIB
from nanodistill.models.blas import threads
from nanodistill.training.adapters import trained_layers
from nanodistill.training.checkpoints import Identity
from nanodistill.training.forward import Forward, SharedForward, select_forward_by_agreement
from nanodistill.training.resource_guard import ResourceLimits
from nanodistill.training.tokenize import TokenRows, shared_tokens

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel
    from nanodistill.training.worker import TrainingJob

CACHE_SHARE = 0.25
KEPT_SHARE = 0.25
"""Share of max_memory_gb that the kept outputs of the layers below may take."""


def on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)


def prepare_mlx(limits: ResourceLimits) -> None:
    """Hold MLX to the user's memory limits."""
    if on_cpu():
        mx.disable_compile()
    mx.set_memory_limit(int(limits.memory_hard_limit_gb * GIB))
    mx.set_cache_limit(int(limits.max_memory_gb * GIB * CACHE_SHARE))


def hold_wired(limits: ResourceLimits) -> None:
    """Wire no more memory than the user allows, where MLX wires any."""
    if mx.metal.is_available():
        most = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(most, int(limits.max_memory_gb * GIB)))


def checkpoint_layers(model: Module) -> None:
    """Recompute activations in place of keeping them, in every kind of block the model has."""
    kinds = {type(layer): layer for layer in model.layers}
    for layer in kinds.values():
        grad_checkpoint(layer)


def select_forward(
    model: Module,
    splits: Mapping[str, TokenRows],
    job: TrainingJob,
    say: Listener,
    look: Callable[[], None],
) -> Forward:
    """The forward pass with the least work for this model and these rows, made ready.

    Gradient checkpointing computes a block again when it is left, which shared tokens would
    not survive.
    """
    rows = {name: split for name, split in splits.items() if len(split)}
    shared = 0 if job.checkpointing else shared_tokens(list(rows.values()))
    frozen = len(model.layers) - trained_layers(model, job.options)
    model.eval()
    forward = select_forward_by_agreement(
        model, rows["train"], shared=shared, frozen=frozen, on_cpu=on_cpu()
    )
    if isinstance(forward, SharedForward) and frozen:
        for name in worth_keeping(forward, rows, job):
            own = rows[name].after(forward.prefix)
            text = "computing the layers that are not trained once"
            say(Notice(f"{text}, for {len(own)} {name} rows"))
            forward.keep(name, own, look)
    model.train()
    return forward


def worth_keeping(
    forward: SharedForward, splits: Mapping[str, TokenRows], job: TrainingJob
) -> Iterator[str]:
    """The splits whose rows come by more than once, as far as their outputs fit."""
    left = job.limits.max_memory_gb * GIB * KEPT_SHARE
    comes_again = {"valid": True, "train": job.options.settings.num_train_epochs > 1}
    for name in ("valid", "train"):
        if name in splits and comes_again[name]:
            size = len(splits[name].after(forward.prefix).tokens) * forward.bytes_per_token
            if size <= left:
                left -= size
                yield name


def identity_of(job: TrainingJob) -> Identity:
    """What a checkpoint of `job` belongs to."""
    options = job.options.identity_values()
    flat = {**options["settings"], **options["beyond"], "seed": options["seed"]}
    return Identity(data=job.data, options={"student": job.student, **flat})


def machine_of(job: TrainingJob, loaded: LoadedModel) -> dict[str, Any]:
    """What the last bits of the result depend on besides the job's settings."""
    return {
        "batch": job.micro_batch,
        "blas": loaded.blas.version or loaded.blas.name,
        "device": str(mx.default_device()),
        "gradient checkpointing": job.checkpointing,
        "machine": platform.machine(),
        "max_memory_gb": job.limits.max_memory_gb,
        "mlx": metadata.version("mlx"),
        "mlx-lm": metadata.version("mlx-lm"),
        "threads": threads(),
        "weights": loaded.numbers,
    }
