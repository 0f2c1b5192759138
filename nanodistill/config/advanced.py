"""The second tier: a bundle of expert settings that fills the same fields.

Only what the user set is passed on; the rest stays with the fields' own
defaults, so that an `AdvancedConfig()` changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

from nanodistill.config.ranges import Range

SAMPLING = ("top_p", "top_k", "frequency_penalty", "presence_penalty")
ALL = -1
FIELD_OF = {
    "gradient_clip": ("max_grad_norm",),
    "warmup_steps": ("warmup_steps",),
    "lr_scheduler": ("lr_scheduler",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "target_modules": ("target_modules",),
    "memory_limit_gb": ("max_memory_gb", "memory_hard_limit_gb"),
    "cpu_limit_percent": ("cpu_capacity_percent",),
}


class AdvancedConfig(BaseModel):
    """Expert settings by the names of the configuration analysis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_p: Annotated[float, Range(0, 1, liftable=False)] | None = None
    top_k: Annotated[int, Range(-1)] | None = None
    """How many of the likeliest tokens are sampled from; -1, all of them, is not sent."""
    frequency_penalty: Annotated[float, Range(-2, 2, liftable=False)] | None = None
    presence_penalty: Annotated[float, Range(-2, 2, liftable=False)] | None = None
    gradient_clip: float | None = None
    warmup_steps: int | None = None
    lr_scheduler: Literal["constant", "linear", "cosine"] | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    target_modules: list[str] | None = None
    memory_limit_gb: int | None = None
    cpu_limit_percent: float | None = None

    def to_fields(self) -> dict[str, Any]:
        """The set values under the names of DistillationConfig's fields."""
        chosen = self.model_dump(include=self.model_fields_set, exclude_none=True)
        sampling = {key: chosen[key] for key in SAMPLING if key in chosen}
        if sampling.get("top_k") == ALL:
            del sampling["top_k"]
        fields = {
            field: value
            for key, value in chosen.items()
            if key not in SAMPLING
            for field in FIELD_OF[key]
        }
        return fields | ({"litellm_kwargs": sampling} if sampling else {})
