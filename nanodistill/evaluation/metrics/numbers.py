"""Numbers, and fractions that may differ by a tolerance; the rules are those of `values`.

The last number in the output counts, so that a model which shows its sum or
names a unit is not marked down for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nanodistill.evaluation.metrics.metric import Pair
from nanodistill.values import Number, number_of, numbers_in, same_number


@dataclass(frozen=True)
class NumericMatch:
    """`tolerance` is for fractions: relative to the gold number, absolute where that is 0."""

    tolerance: float

    name = "numeric"
    measure = "accuracy"

    def score(self, output: str, gold: str) -> float:
        found, wanted = _last(output), _last(gold)
        if found is None or wanted is None:
            return 0.0
        return float(same_number(found, wanted, self.tolerance))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        numbers = [
            (last_number(output), last_number(gold)) for output, gold in pairs if output is not None
        ]
        errors = [
            abs(found - wanted)
            for found, wanted in numbers
            if found is not None and wanted is not None
        ]
        return {
            "without_number": len(pairs) - len(errors),
            "median_absolute_error": median(errors) if errors else None,
            "tolerance": self.tolerance,
        }


def _last(text: str) -> Number | None:
    """The number that `text` is, else the last one in it."""
    return number_of(text) or next(reversed(list(numbers_in(text))), None)


def last_number(text: str) -> float | None:
    """The last finite number in `text`."""
    found = _last(text)
    return None if found is None else float(found.value)


def is_number(text: str) -> bool:
    """Whether `text` is a number, but for a currency or percent sign, and no code."""
    found = number_of(text)
    return found is not None and not found.is_code
