"""The keyword arguments of `distill`, typed for editors.

One entry for each field of `DistillationConfig` that is no named parameter of
`distill`, and the other names that the configuration takes. A test keeps the
two in step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict

from nanodistill.config.distillation import AdvancedConfig
from nanodistill.config.synthesis_fields import PromptTemplates, Rows, TeacherPrice


class DistillOptions(TypedDict, total=False):
    """What `distill` takes by keyword."""

    allow_out_of_range: bool
    random_seed: int
    temperature: float
    litellm_kwargs: dict[str, Any]
    instructor_kwargs: dict[str, Any]
    structured_output: Literal["auto", "json_schema", "tools", "json", "text"]
    transport: Literal["auto", "litellm"]
    max_concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    timeout_seconds: float
    max_retries: int
    max_output_tokens: int | None
    max_cost_usd: float | None
    max_calls: int | None
    max_tokens_total: int | None
    teacher_price: TeacherPrice | None
    thinking_format: str | Any
    custom_cot_system_prompt: str | None
    custom_policy_extraction_prompt: str | None
    custom_synthetic_generation_prompt: str | None
    response_parser: str | Any | None
    extract_policy: bool
    policy_dimensions: dict[str, str]
    check_seeds: bool
    min_teacher_agreement: float | None
    generation: Literal["structured", "chat"]
    examples_per_call: int | None
    few_shot: int
    labels: list[str] | dict[str, str] | None
    axes: dict[str, list[str] | dict[str, float]]
    coverage: bool
    difficulty_mix: dict[str, float]
    decision_rules: list[str]
    check_labels: bool
    recheck: Literal["boundary", "all", "none"]
    recheck_disagreement: Literal["drop", "majority"]
    samples_per_input: int
    min_confidence: float | None
    verifier: str | Callable[[str, str], Any] | None
    judge: str | None
    judge_rubric: str | None
    judge_litellm_kwargs: dict[str, Any]
    judge_price: TeacherPrice | None
    near_duplicate_threshold: float
    max_rounds: int
    min_rows: int
    test: str | Path | list[dict[str, Any]] | None
    holdout_seeds: int
    val_split: float
    training_data: Rows | None
    batch_size: int
    learning_rate: float
    num_train_epochs: int
    max_seq_length: int
    long_rows: Literal["drop", "error"]
    lora_rank: int
    lora_layers: int
    lora_alpha: float | None
    lora_dropout: float
    target_modules: list[str] | None
    fine_tune_type: Literal["lora", "dora", "full"]
    train_on: Literal["cot", "answer"]
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "muon"]
    weight_decay: float
    lr_scheduler: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    max_grad_norm: float | None
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    eval_steps: int | None
    save_steps: int | None
    logging_steps: int | None
    best_by: Literal["loss", "score"]
    early_stopping_patience: int | None
    report_to: Literal["trackio"] | None
    mlx_lm_kwargs: dict[str, Any]
    tokenizer_kwargs: dict[str, Any]
    max_memory_gb: int
    memory_hard_limit_gb: int
    cpu_capacity_percent: float
    metric: str | Callable[[str, str], Any]
    numeric_tolerance: float
    max_new_tokens: int
    eval_batch_size: int
    export_tolerance: float
    synthesis_temperature: float
    advanced_config: AdvancedConfig | dict[str, Any]
    prompt_templates: PromptTemplates | dict[str, Any]
