"""Exact match after normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanodistill.evaluation.metrics.metric import Pair
from nanodistill.values import normalized


class ExactMatch:
    name = "exact"
    measure = "exact match"

    def score(self, output: str, gold: str) -> float:
        return float(normalized(output) == normalized(gold))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:  # noqa: ARG002 - all is said
        return {}
