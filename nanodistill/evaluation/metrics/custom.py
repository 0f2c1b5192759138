"""A metric of the user's own: a function of output and gold answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.errors import InputError
from nanodistill.evaluation.metrics.metric import Pair
from nanodistill.plugins import user_code


@dataclass(frozen=True)
class CustomMetric:
    """`function(output, gold)` says true or false, or gives a score in 0..1."""

    function: Callable[[str, str], Any]
    name: str

    @property
    def measure(self) -> str:
        return self.name.rpartition(":")[2]

    def score(self, output: str, gold: str) -> float:
        with user_code(f"metric {self.name}"):
            said = self.function(output, gold)
        try:
            score = float(said)
        except (TypeError, ValueError) as unusable:
            raise self._refused(said, output, gold) from unusable
        if not 0 <= score <= 1:
            raise self._refused(said, output, gold)
        return score

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:  # noqa: ARG002 - only it knows
        return {}

    def _refused(self, said: object, output: str, gold: str) -> InputError:
        return InputError(
            f"metric {self.name} answered {said!r} for output {output[:60]!r} "
            f"and gold {gold[:60]!r}; it must answer true, false or a number from 0 to 1.",
        )
