"""How the student is judged and handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, field_validator

from nanodistill.config.ranges import Range
from nanodistill.config.settings import ObjectRef, Settings, is_named

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
