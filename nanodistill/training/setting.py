"""MLX in the child: its limits, and what its results depend on.

On a CPU compiling is turned off: it gains nothing there (3.3 s for a step of
SmolLM2-135M against 3.0 s without), waits 20 s for a C++ compiler at first, and
makes results depend on whether there is one.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.tuner.trainer import grad_checkpoint

from nanodistill.hardware import GIB
from nanodistill.models.blas import Blas, threads
from nanodistill.training.checkpoints import Identity
from nanodistill.training.guard import Limits

if TYPE_CHECKING:
    from nanodistill.training.child import Job

CACHE_SHARE = 0.25


def on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)


def prepare_mlx(limits: Limits) -> None:
    """Hold MLX to the user's memory limits. mlx-lm's loop raises the wired limit; see loop.py."""
    if on_cpu():
        mx.disable_compile()
    mx.set_memory_limit(int(limits.memory_hard_limit_gb * GIB))
    mx.set_cache_limit(int(limits.max_memory_gb * GIB * CACHE_SHARE))


def checkpoint_layers(model: Module) -> None:
    """Recompute activations in place of keeping them, in every kind of block the model has."""
    kinds = {type(layer): layer for layer in model.layers}
    for layer in kinds.values():
        grad_checkpoint(layer)


def identity_of(job: Job, blas: Blas) -> Identity:
    """What a checkpoint of `job` belongs to, and what its last bits depend on."""
    options = job.options.to_json()
    flat = {**options["settings"], **options["beyond"], "seed": options["seed"]}
    return Identity(
        data=job.data,
        options={"student": job.student, **flat},
        machine={
            "batch": job.micro_batch,
            "blas": blas.version or blas.name,
            "device": str(mx.default_device()),
            "gradient checkpointing": job.checkpointing,
            "machine": platform.machine(),
            "mlx": metadata.version("mlx"),
            "mlx-lm": metadata.version("mlx-lm"),
            "threads": threads(),
        },
    )
