"""The shape that every metric has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Pair = tuple[str | None, str]
"""An output, None where it could not be read, and the gold answer of its row."""


class Metric(Protocol):
    """Scores one output at a time; `details` says more about all of them together.

    `name` is its name in a run file, `measure` what its mean is called in a
    sentence ("accuracy").
    """

    @property
    def name(self) -> str: ...

    @property
    def measure(self) -> str: ...

    def score(self, output: str, gold: str) -> float:
        """0 (wrong) to 1 (right)."""

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Further figures, as JSON values."""


def score_rows(metric: Metric, pairs: Sequence[Pair]) -> list[float]:
    """One score for each row, in order; 0 where the output could not be read."""
    return [0.0 if output is None else metric.score(output, gold) for output, gold in pairs]
