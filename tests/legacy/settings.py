"""The run of version 0.1.0 that lies beside this file, and how its ids come about.

Paths are relative: whoever uses the run works in its folder.
"""

from __future__ import annotations

from typing import Any

from synthesis.writer import INSTRUCTION, SEEDS

from nanodistill.config import DistillationConfig

SETTINGS: dict[str, Any] = {
    "name": "run",
    "seed": SEEDS,
    "instruction": INSTRUCTION,
    "teacher": "python:synthesis.writer:Writer",
    "student": "student",
    "output_dir": ".",
    "augment_factor": 3,
    "holdout_seeds": 4,
    # What a preset of the machine would fill in otherwise.
    "batch_size": 4,
    "max_seq_length": 512,
    "lora_rank": 2,
    "lora_layers": 2,
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "save_steps": 3,
    "max_new_tokens": 12,
    "export_tolerance": 100.0,
    "max_memory_gb": 64,
    "memory_hard_limit_gb": 64,
    "cpu_capacity_percent": 1.0,
}

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "labels with meanings": {"labels": {"billing": "about money", "bug": "it does not work",
                                        "account": "about access", "shipping": "about parcels"}},
    "sampling": {"temperature": 0.3, "litellm_kwargs": {"top_p": 0.9, "api_key": "sk-secret"}},
    "curation": {"samples_per_input": 3, "min_confidence": 0.5, "axes": {"tone": ["a", "b"]}},
    "no thinking": {"thinking_format": "none", "extract_policy": False, "check_seeds": False},
    "training": {"num_train_epochs": 2, "lora_alpha": 8.0, "target_modules": ["q_proj"],
                 "optimizer": "adam", "warmup_steps": 2, "tokenizer_kwargs": {"use_fast": True}},
    "mlx-lm": {"mlx_lm_kwargs": {"iters": 5, "scale": 3.0, "seed": 7, "lr_schedule":
               {"name": "cosine_decay", "arguments": [1e-3, 100.0], "warmup": 2}}},
    "score": {"best_by": "score", "metric": "label", "numeric_tolerance": 0.01},
    "delivery": {"metric": "exact", "max_new_tokens": 64, "eval_batch_size": 2},
}  # fmt: skip
"""Configurations whose ids ids.json holds."""


def config_of(**changes: Any) -> DistillationConfig:
    return DistillationConfig(**(SETTINGS | changes))
