"""How the student is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from nanodistill.config.mlx_options import WrongKwargs, read_kwargs
from nanodistill.config.ranges import Range
from nanodistill.config.settings import Settings, several


class TrainingSettings(Settings):
    """LoRA, optimizer, schedule, batches and checkpoints."""

    batch_size: Annotated[int, Range(1, 32)] = Field(default=1, description="Rows in one batch.")
    learning_rate: Annotated[float, Range(0, 1, open_ends=True, liftable=False)] = Field(
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
    lora_alpha: Annotated[float | None, Range(0, open_ends=True)] = Field(
        default=None,
        description="Scaling of the adapters is alpha / rank; unset is 20 x rank, "
        "mlx-lm's own scaling.",
    )
    lora_dropout: Annotated[float, Range(0, 0.9, liftable=False)] = Field(
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
    weight_decay: Annotated[float, Range(0, 1, liftable=False)] = Field(
        default=0.01, description="Weight decay, for optimizers that have it."
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How the learning rate goes on after the warm-up."
    )
    warmup_steps: Annotated[int, Range(0)] = Field(
        default=0, description="Optimizer updates over which the learning rate rises."
    )
    max_grad_norm: Annotated[float | None, Range(0, open_ends=True)] = Field(
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
        except WrongKwargs as wrong:
            raise several("mlx_lm_kwargs", wrong.problems) from wrong
        return kwargs
