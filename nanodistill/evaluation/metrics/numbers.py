"""Numbers that may differ by a tolerance.

The last number in the output counts, so that a model which shows its sum or
names a unit is not marked down for it. Commas, underscores and no-break spaces
between groups of three digits are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

from nanodistill.evaluation.metrics.metric import Pair

GROUPED = r"\d{1,3}(?:[,_\u00a0\u202f]\d{3})+(?!\d)"
NUMBER = re.compile(rf"(?<![\w.])[-+\u2212]?(?:{GROUPED}|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?")
WHOLLY_NUMBER = re.compile(rf"\s*[$€£¥]?\s*{NUMBER.pattern}\s*[%$€£¥]?\.?\s*\Z")


@dataclass(frozen=True)
class NumericMatch:
    """`tolerance` is relative to the gold number, and absolute where that is 0."""

    tolerance: float

    name = "numeric"
    measure = "accuracy"

    def score(self, output: str, gold: str) -> float:
        found, wanted = last_number(output), last_number(gold)
        if found is None or wanted is None:
            return 0.0
        return float(is_near(found, wanted, self.tolerance))

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


def last_number(text: str) -> float | None:
    """The last finite number in `text`."""
    found = [
        float(re.sub("[,_\u00a0\u202f]", "", match).replace("\u2212", "-"))
        for match in NUMBER.findall(text)
    ]
    return next((number for number in reversed(found) if isfinite(number)), None)


def is_number(text: str) -> bool:
    """Whether `text` is a number and nothing else but a currency or percent sign."""
    return WHOLLY_NUMBER.match(text) is not None and last_number(text) is not None


def is_near(found: float, wanted: float, tolerance: float) -> bool:
    return abs(found - wanted) <= tolerance * (abs(wanted) or 1.0)
