"""Fields of a training: the student, the machine it may use, how it is evaluated and handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nanodistill.config.mlx_options import KwargsError, read_kwargs
from nanodistill.config.settings import ObjectRef, Range, Settings, is_named, multi_error


class TrainingSettings(Settings):
    """LoRA, optimizer, schedule, batches and checkpoints."""

    batch_size: Annotated[int, Range(1, 32)] = Field(default=1, description="Rows in one batch.")
    learning_rate: Annotated[float, Range(0, 1, exclusive=True, overridable=False)] = Field(
        default=1e-5, description="Peak learning rate."
    )
    num_train_epochs: Annotated[int, Range(1, 10)] = Field(
        default=1, description="Passes over the training rows."
    )
    max_seq_length: Annotated[int, Range(32, 2048)] = Field(
        default=256, description="Longest row in tokens, prompt and answer together."
    )
    long_rows: Literal["drop", "error"] = Field(
        default="drop", description="What happens to rows over max_seq_length; none is ever cut."
    )
    lora_rank: Annotated[int, Range(1, 64)] = Field(default=8, description="Rank of the adapters.")
    lora_layers: Annotated[int, Range(1, 32)] = Field(
        default=4, description="Layers that get adapters, counted from the last."
    )
    lora_alpha: Annotated[float | None, Range(0, exclusive=True)] = Field(
        default=None,
        description="Scaling of the adapters is alpha / rank; unset is 20 x rank, "
        "mlx-lm's own scaling.",
    )
    lora_dropout: Annotated[float, Range(0, 0.9, overridable=False)] = Field(
        default=0.0, description="Dropout on the adapters' input."
    )
    target_modules: list[str] | None = Field(
        default=None,
        description="Modules that get adapters (q_proj, self_attn.q_proj, …); "
        "unset is every linear layer of a block.",
    )
    fine_tune_type: Literal["lora", "dora", "full"] = Field(
        default="lora", description="What is trained."
    )
    train_on: Literal["cot", "answer"] = Field(
        default="cot", description="Train on thinking and output, or on the output alone."
    )
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "muon"] = Field(
        default="adamw", description="Optimizer."
    )
    weight_decay: Annotated[float, Range(0, 1, overridable=False)] = Field(
        default=0.01, description="Weight decay, for optimizers that have it."
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How the learning rate goes on after the warm-up."
    )
    warmup_steps: Annotated[int, Range(0)] = Field(
        default=0, description="Optimizer updates over which the learning rate rises."
    )
    max_grad_norm: Annotated[float | None, Range(0, exclusive=True)] = Field(
        default=1.0, description="Gradients are clipped to this norm; null leaves them alone."
    )
    gradient_accumulation_steps: Annotated[int, Range(1, 256)] = Field(
        default=1, description="Batches to an optimizer update."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations: less memory, more time."
    )
    eval_steps: Annotated[int | None, Range(1)] = Field(
        default=None, description="Updates between validations; unset is about ten in a run."
    )
    save_steps: Annotated[int | None, Range(1)] = Field(
        default=None, description="Updates between checkpoints; unset is about ten in a run."
    )
    logging_steps: Annotated[int | None, Range(1)] = Field(
        default=None,
        description="Updates between records in metrics.jsonl; unset is about a hundred in a run.",
    )
    best_by: Literal["loss", "score"] = Field(
        default="loss",
        description="The best checkpoint is the one of least validation loss, "
        "or of the best task score on the validation split.",
    )
    early_stopping_patience: Annotated[int | None, Range(1)] = Field(
        default=None, description="Validations without a better one after which training ends."
    )
    report_to: Literal["trackio"] | None = Field(
        default=None, description="Where metrics go besides metrics.jsonl."
    )
    mlx_lm_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Any MLX-LM training parameter, by the name users know or mlx-lm's own.",
    )
    tokenizer_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to the student's tokenizer wherever it is loaded, and written into "
        "an exported one.",
    )

    @field_validator("mlx_lm_kwargs")
    @classmethod
    def _means_something(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "optimizer" not in info.data:
            return kwargs
        try:
            read_kwargs(kwargs, info.data["optimizer"], lifted=info.data["allow_out_of_range"])
        except KwargsError as wrong:
            raise multi_error("mlx_lm_kwargs", wrong.problems) from wrong
        return kwargs


LOWEST_GB = 2
CAP_GB = 12
PAUSE_SHARE, STOP_SHARE = 0.9, 0.95
CPU_SHARE = 0.8


def get_system_defaults() -> tuple[int, int, float]:
    """Limits that suit this machine: (max_memory_gb, memory_hard_limit_gb, cpu_capacity_percent).

    90% and 95% of the memory in whole GiB, each at most 12 and at least 2.
    """
    from nanodistill.hardware import total_memory_gb

    return *memory_limits(total_memory_gb()), CPU_SHARE


def memory_limits(total_gb: float) -> tuple[int, int]:
    """Where training pauses and where it stops on a machine with so much memory, in GiB."""
    return _within(total_gb * PAUSE_SHARE), _within(total_gb * STOP_SHARE)


def out_of_order(soft: float, hard: float) -> str:
    """What is wrong with memory limits of which the hard one is below the soft one."""
    return f"is {hard}, must be at least max_memory_gb, which is {soft}"


def _within(gigabytes: float) -> int:
    return max(LOWEST_GB, int(min(gigabytes, CAP_GB)))


class MachineSettings(Settings):
    """Memory and processor limits of training."""

    max_memory_gb: Annotated[int, Range(2, 128)] = Field(
        default_factory=lambda: get_system_defaults()[0],
        description="Training pauses above this much memory, in GiB.",
    )
    memory_hard_limit_gb: Annotated[int, Range(2, 128)] = Field(
        default_factory=lambda: get_system_defaults()[1],
        description="Training writes a checkpoint and stops above this much memory, in GiB.",
    )
    cpu_capacity_percent: Annotated[float, Range(0.1, 1.0, overridable=False)] = Field(
        default=CPU_SHARE,
        description="Training pauses while everything else on the machine uses more than this "
        "share of the processors, and takes no more than it itself.",
    )

    @staticmethod
    def get_system_defaults() -> tuple[int, int, float]:
        """See `nanodistill.config.training_fields.get_system_defaults`."""
        return get_system_defaults()

    @model_validator(mode="after")
    def _pause_before_stop(self) -> MachineSettings:
        """An automatic limit gives way to the one that was set; two set ones must agree."""
        if self.memory_hard_limit_gb >= self.max_memory_gb:
            return self
        chosen = {"max_memory_gb", "memory_hard_limit_gb"} & self.model_fields_set
        if chosen == {"max_memory_gb"}:
            object.__setattr__(self, "memory_hard_limit_gb", self.max_memory_gb)
        elif chosen == {"memory_hard_limit_gb"}:
            object.__setattr__(self, "max_memory_gb", self.memory_hard_limit_gb)
        else:
            what = out_of_order(self.max_memory_gb, self.memory_hard_limit_gb)
            raise multi_error("memory_order", [("memory_hard_limit_gb", what)])
        return self


METRICS = ("auto", "exact", "label", "json", "numeric", "text")


class DeliverySettings(Settings):
    """Evaluation and export."""

    metric: Annotated[str | Callable[[str, str], Any], ObjectRef()] = Field(
        default="auto",
        description="auto, exact, label, json, numeric, text, or module:function of "
        "output and gold; auto goes by the data.",
    )
    numeric_tolerance: Annotated[float, Range(0)] = Field(
        default=1e-6,
        description="Relative difference up to which fractions count as equal; whole numbers, "
        "ids and codes are compared exactly.",
    )
    max_new_tokens: Annotated[int, Range(1, 4096)] = Field(
        default=256, description="Longest answer of the student, in tokens."
    )
    eval_batch_size: Annotated[int, Range(1, 256)] = Field(
        default=16, description="Prompts generated together in evaluation."
    )
    export_tolerance: Annotated[float, Range(0, 100)] = Field(
        default=2.0, description="Points of score that an exported model may lose."
    )

    @field_validator("metric")
    @classmethod
    def _is_a_metric(
        cls, chosen: str | Callable[[str, str], Any]
    ) -> str | Callable[[str, str], Any]:
        is_named(chosen, METRICS, "module:function")
        return chosen
