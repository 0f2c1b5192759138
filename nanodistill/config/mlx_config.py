"""The training settings in mlx-lm's own names, and what its command line takes of them.

The trainer builds its optimizer, schedule and adapters from `mlx_lm_config`, so
that what is saved as the equivalent run of `mlx_lm lora` is what was run. Of
the settings mlx-lm has some as flags, more in its YAML file alone
(`lora_parameters`, `lr_schedule`, `optimizer_config`), and some not at all
(epochs, clipping, early stopping): those are our trainer's.

Learning rates count updates, iterations count batches: with
`gradient_accumulation_steps = 4`, 100 updates are 400 iterations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanodistill.config.mlx_options import DEFAULT_SCALE, OURS, MlxSettings, optimizer_settings

if TYPE_CHECKING:
    from nanodistill.config.training_fields import TrainingSettings

FLAGS = {
    "fine_tune_type": "--fine-tune-type",
    "optimizer": "--optimizer",
    "mask_prompt": "--mask-prompt",
    "num_layers": "--num-layers",
    "batch_size": "--batch-size",
    "iters": "--iters",
    "val_batches": "--val-batches",
    "learning_rate": "--learning-rate",
    "steps_per_report": "--steps-per-report",
    "steps_per_eval": "--steps-per-eval",
    "grad_accumulation_steps": "--grad-accumulation-steps",
    "save_every": "--save-every",
    "max_seq_length": "--max-seq-length",
    "grad_checkpoint": "--grad-checkpoint",
    "clear_cache_threshold": "--clear-cache-threshold",
    "seed": "--seed",
}
"""Keys of `mlx_lm_config` that `mlx_lm lora` takes as flags."""


def mlx_lm_config(
    settings: TrainingSettings, beyond: MlxSettings, seed: int, updates: int | None = None
) -> dict[str, Any]:
    """The keys of a YAML file for `mlx_lm lora`.

    Without `updates`, the number of optimizer updates, what depends on it is
    left out: `iters`, and the schedule of a rate that decays over the run.
    """
    accumulation = settings.gradient_accumulation_steps
    config: dict[str, Any] = {
        "fine_tune_type": settings.fine_tune_type,
        "num_layers": -1 if beyond.all_layers else settings.lora_layers,
        "lora_parameters": lora_parameters(settings, beyond),
        "optimizer": settings.optimizer,
        "optimizer_config": {settings.optimizer: optimizer_config(settings, beyond)},
        "learning_rate": settings.learning_rate,
        "lr_schedule": learning_rate_schedule(settings, beyond, updates),
        "batch_size": settings.batch_size,
        "grad_accumulation_steps": accumulation,
        "iters": updates * accumulation if updates is not None else None,
        "max_seq_length": settings.max_seq_length,
        "grad_checkpoint": settings.gradient_checkpointing,
        "mask_prompt": beyond.mask_prompt,
        "val_batches": beyond.val_batches,
        "steps_per_eval": iterations(settings.eval_steps, accumulation, beyond.steps_per_eval),
        "save_every": iterations(settings.save_steps, accumulation, beyond.save_every),
        "steps_per_report": iterations(
            settings.logging_steps, accumulation, beyond.steps_per_report
        ),
        "clear_cache_threshold": beyond.clear_cache_threshold,
        "seed": seed if beyond.seed is None else beyond.seed,
    }
    return {name: value for name, value in config.items() if value is not None}


def lora_parameters(settings: TrainingSettings, beyond: MlxSettings) -> dict[str, Any] | None:
    """mlx-lm's table for the adapters; None where all weights of a layer are trained."""
    if settings.fine_tune_type == "full":
        return None
    scale = beyond.scale
    if scale is None:
        alpha = settings.lora_alpha
        scale = DEFAULT_SCALE if alpha is None else alpha / settings.lora_rank
    table = {"rank": settings.lora_rank, "scale": scale, "dropout": settings.lora_dropout}
    return table | ({"keys": settings.target_modules} if settings.target_modules else {})


def optimizer_config(settings: TrainingSettings, beyond: MlxSettings) -> dict[str, Any]:
    """Keyword arguments of the optimizer's class in mlx.optimizers, but for the learning rate."""
    name = settings.optimizer
    decay = {} if name == "adam" else {"weight_decay": settings.weight_decay}
    ours = OURS.get(name, {})
    return decay | ours | optimizer_settings(name, beyond.optimizer_config)


def learning_rate_schedule(
    settings: TrainingSettings, beyond: MlxSettings, updates: int | None
) -> dict[str, Any] | None:
    """mlx-lm's `lr_schedule`; None for a constant rate, and where the run's length must be known.

    The warm-up's first update already has a share of the rate: `warmup_steps = 4`
    gives a fifth, two fifths, … and the full rate at the fifth update.
    """
    if beyond.lr_schedule is not None:
        return beyond.lr_schedule.model_dump()
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if beyond.warmup_ratio is not None:
        if updates is None:
            return None
        warmup = round(beyond.warmup_ratio * updates)
    first = beyond.warmup_init if beyond.warmup_init is not None else peak / (warmup + 1)
    rising = {"warmup": warmup, "warmup_init": first} if warmup else {}
    if settings.lr_scheduler == "constant":
        return (
            {"name": "linear_schedule", "arguments": [peak, peak, 1]} | rising if warmup else None
        )
    if updates is None:
        return None
    falling = max(1, updates - (warmup + 1 if warmup else 0))
    if settings.lr_scheduler == "cosine":
        return {"name": "cosine_decay", "arguments": [peak, falling, 0.0]} | rising
    return {"name": "linear_schedule", "arguments": [peak, 0.0, falling]} | rising


def iterations(updates: int | None, accumulation: int, chosen: int | None) -> int | None:
    """mlx-lm's count of batches for `updates`, unless one is chosen in its own name."""
    if chosen is not None:
        return chosen
    return None if updates is None else updates * accumulation


def cli_args(config: Mapping[str, Any]) -> list[str]:
    """The flags of `mlx_lm lora` for `config`; what only its YAML file takes is not among them."""
    arguments: list[str] = []
    for name, flag in FLAGS.items():
        value = config.get(name)
        if isinstance(value, bool):
            arguments += [flag] if value else []
        elif value is not None:
            arguments += [flag, str(value)]
    return arguments


def yaml_text(config: Mapping[str, Any]) -> str:
    """`config` as a file for `mlx_lm lora -c FILE`: a key to a line, its value as JSON."""
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items())
