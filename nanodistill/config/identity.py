"""What a hash of settings covers: the values that a user set, and nothing else.

Ids made of settings decide whether work is done already: a training run's folder, an export, the
calls that a finished synthesis did without. A release that adds or drops a field must not change
them. So a hash takes the values that differ from their defaults and lays them over the table below,
which never changes: the fields of 0.1.0, whose ids were hashes of all its fields. Under this rule
they are still the same.

Never add a field to the table or change a value in it. A new field needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

FIRST_RELEASE: Mapping[str, Mapping[str, Any]] = {
    "TaskSettings": {
        "allow_out_of_range": False,
        "teacher": "claude-sonnet-4-5",
        "student": "mlx-community/Llama-3-8B-Instruct-4bit",
        "augment_factor": 50,
        "output_dir": "./outputs",
        "response_model": None,
        "random_seed": 0,
    },
    "TeacherSettings": {
        "temperature": 0.7,
        "litellm_kwargs": {},
        "instructor_kwargs": {},
        "structured_output": "auto",
        "transport": "auto",
        "max_concurrency": 200,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "timeout_seconds": 120.0,
        "max_retries": 3,
        "max_output_tokens": None,
        "max_cost_usd": None,
        "max_calls": None,
        "max_tokens_total": None,
        "teacher_price": None,
    },
    "DataSettings": {
        "thinking_format": "xml",
        "custom_cot_system_prompt": None,
        "custom_policy_extraction_prompt": None,
        "custom_synthetic_generation_prompt": None,
        "response_parser": None,
        "extract_policy": True,
        "policy_dimensions": {},
        "check_seeds": True,
        "min_teacher_agreement": None,
        "generation": "structured",
        "examples_per_call": 5,
        "few_shot": 3,
        "labels": None,
        "axes": {},
        "coverage": True,
        "check_labels": False,
        "samples_per_input": 1,
        "min_confidence": None,
        "verifier": None,
        "judge": None,
        "judge_rubric": None,
        "near_duplicate_threshold": 0.8,
        "max_rounds": 20,
        "min_rows": 10,
        "test": None,
        "holdout_seeds": 0,
        "val_split": 0.2,
        "training_data": None,
    },
    "TrainingSettings": {
        "batch_size": 1,
        "learning_rate": 1e-05,
        "num_train_epochs": 1,
        "max_seq_length": 256,
        "long_rows": "drop",
        "lora_rank": 8,
        "lora_layers": 4,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "target_modules": None,
        "fine_tune_type": "lora",
        "train_on": "cot",
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "lr_scheduler": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "eval_steps": None,
        "save_steps": None,
        "logging_steps": None,
        "best_by": "loss",
        "early_stopping_patience": None,
        "report_to": None,
        "mlx_lm_kwargs": {},
        "tokenizer_kwargs": {},
    },
    "DeliverySettings": {
        "metric": "auto",
        "numeric_tolerance": 1e-06,
        "max_new_tokens": 256,
        "eval_batch_size": 16,
        "export_tolerance": 2.0,
    },
    "MlxSettings": {
        "seed": None,
        "scale": None,
        "all_layers": False,
        "max_steps": None,
        "iters": None,
        "val_batches": -1,
        "mask_prompt": True,
        "clear_cache_threshold": None,
        "steps_per_eval": None,
        "save_every": None,
        "steps_per_report": None,
        "optimizer_config": {},
        "lr_schedule": None,
        "warmup_init": None,
        "warmup_ratio": None,
    },
    "LearningRateSchedule": {"warmup": 0, "warmup_init": 0.0},
}


def identity_values(
    settings: BaseModel, *parts: type[BaseModel], leave_out: Iterable[str] = ()
) -> dict[str, Any]:
    """The values of `parts` of `settings` as a hash of them sees them, fit for JSON.

    Fields of a later release are in it only where they are set to something other than their
    default.
    """
    without = set(leave_out)
    values: dict[str, Any] = {}
    for part in parts:
        values |= FIRST_RELEASE.get(part.__name__, {})
        values |= {
            name: _identifying(getattr(settings, name))
            for name, field in part.model_fields.items()
            if name not in without and _is_set(getattr(settings, name), field)
        }
    return {name: value for name, value in values.items() if name not in without}


def _identifying(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity_values(value, type(value))
    return plain_value(value)


def _is_set(value: Any, field: FieldInfo) -> bool:
    return field.is_required() or plain_value(value) != default_of(field)


def default_of(field: FieldInfo) -> Any:
    """The default of a field that has one, as JSON."""
    return plain_value(field.get_default(call_default_factory=True))


def plain_value(value: Any) -> Any:
    """`value` as JSON: classes and functions by name, paths as text."""
    if isinstance(value, BaseModel):
        return {key: plain_value(item) for key, item in value.model_dump().items()}
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain_value(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    named = value if isinstance(value, type) or callable(value) else type(value)
    return f"{named.__module__}:{named.__qualname__}"
