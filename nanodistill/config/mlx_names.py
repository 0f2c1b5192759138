"""The names of mlx-lm's training parameters, ours, and those that users bring from elsewhere."""

from __future__ import annotations

from typing import Any

DEFAULT_SCALE = 20.0
"""mlx-lm's own scaling of LoRA layers."""

SAME_AS = {
    "batch_size": ("per_device_train_batch_size", "train_batch_size", "micro_batch_size"),
    "learning_rate": ("lr",),
    "num_train_epochs": ("epochs", "num_epochs"),
    "max_seq_length": ("max_seq_len", "max_length", "cutoff_len"),
    "long_rows": (),
    "lora_rank": ("rank", "r", "lora_r"),
    "lora_layers": ("num_layers",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "target_modules": ("keys", "lora_target_modules"),
    "fine_tune_type": ("train_type",),
    "train_on": (),
    "optimizer": ("optim",),
    "weight_decay": (),
    "lr_scheduler": ("lr_scheduler_type",),
    "warmup_steps": ("warmup", "num_warmup_steps"),
    "max_grad_norm": ("gradient_clip", "grad_clip", "clip_grad_norm", "max_norm"),
    "gradient_accumulation_steps": ("grad_accumulation_steps", "grad_accum_steps"),
    "gradient_checkpointing": ("grad_checkpoint", "use_gradient_checkpointing"),
    "eval_steps": (),
    "save_steps": (),
    "logging_steps": (),
    "best_by": (),
    "early_stopping_patience": ("patience",),
    "report_to": (),
    "seed": ("random_seed",),
    "scale": ("lora_scale",),
    "use_dora": (),
    "iters": (),
    "max_steps": (),
    "val_batches": (),
    "mask_prompt": ("train_on_completions_only", "completion_only_loss"),
    "clear_cache_threshold": (),
    "steps_per_eval": (),
    "save_every": (),
    "steps_per_report": (),
    "lr_schedule": (),
    "warmup_init": (),
    "warmup_ratio": (),
    "betas": ("adam_betas",),
    "beta_1": ("adam_beta_1", "adam_beta1", "beta1"),
    "beta_2": ("adam_beta_2", "adam_beta2", "beta2"),
    "eps": ("adam_epsilon", "adam_eps", "epsilon"),
    "bias_correction": (),
    "momentum": (),
    "nesterov": (),
    "dampening": (),
    "ns_steps": (),
    "clip_threshold": (),
    "decay_rate": (),
    "scale_parameter": (),
    "relative_step": (),
}
SETTING_OF = {other: name for name, others in SAME_AS.items() for other in (name, *others)}

REFUSED = {
    "model": "`student` names the model",
    "data": "the rows come from the dataset version",
    "hf_dataset": "`nanodistill train --dataset` takes a Hub id",
    "train": "`nanodistill train` always trains",
    "test": "`nanodistill eval` scores the test rows",
    "test_batches": "`nanodistill eval` scores all test rows",
    "adapter_path": "the adapter lies in the run's folder",
    "adapter_file": "the adapter lies in the run's folder",
    "resume_adapter_file": "a run goes on from its own checkpoint by itself",
    "resume_from_checkpoint": "a run goes on from its own checkpoint by itself",
    "config": "put its settings here",
    "project_name": "the run's `name` is it",
    "trust_remote_code": "`tokenizer_kwargs` passes it to the tokenizer",
    "packing": "rows are never packed together",
}

LORA_PARAMETERS = {
    "rank": "lora_rank",
    "scale": "scale",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "keys": "target_modules",
}
"""mlx-lm's table of that name, and the settings that it holds."""

OPTIMIZER_SETTINGS: dict[str, frozenset[str]] = {
    "adam": frozenset({"betas", "eps", "bias_correction"}),
    "adamw": frozenset({"betas", "eps", "bias_correction", "weight_decay"}),
    "sgd": frozenset({"momentum", "weight_decay", "dampening", "nesterov"}),
    "muon": frozenset({"momentum", "weight_decay", "nesterov", "ns_steps"}),
    "adafactor": frozenset(
        {"eps", "clip_threshold", "decay_rate", "beta_1", "weight_decay"}
        | {"scale_parameter", "relative_step", "warmup_init"}
    ),
}
"""What each optimizer of mlx.optimizers takes besides its learning rate."""

OPTIMIZER_NAMES = {
    "betas", "beta_1", "beta_2", "eps", "bias_correction", "momentum", "nesterov", "dampening",
    "ns_steps", "clip_threshold", "decay_rate", "scale_parameter", "relative_step",
}  # fmt: skip
"""Settings of an optimizer that may stand outside of `optimizer_config`."""

ADAM_BETAS = (0.9, 0.999)

OURS: dict[str, dict[str, Any]] = {
    # Without the correction the first step is 3 times as large as asked for.
    "adam": {"bias_correction": True},
    "adamw": {"bias_correction": True},
    # A relative step would ignore learning_rate.
    "adafactor": {"relative_step": False},
}
"""Where we depart from the defaults of mlx.optimizers."""
