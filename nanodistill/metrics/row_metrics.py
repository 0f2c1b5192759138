"""The shape that every metric has.

The normalization under which an output and its gold answer are compared; see `values`.

Exact match after normalization.

Label accuracy, with F1 for each label and the confusion matrix.

An output is a label only where it is written like one (see `values.LabelSet`: case, quotes and
a full stop don't count, marks and signs do); anything else is a wrong answer in the column
`(other)`, an unreadable one in `(unreadable)`. Macro-F1 is the plain mean of F1 over the labels
that occur among the gold answers: a label that no test row has can't be judged.

Numbers, and fractions that may differ by a tolerance; the rules are those of `values`.

The last number in the output counts, so that a model which shows its sum or
names a unit is not marked down for it.

Text similarity: chrF by sacrebleu, which works in any language and script.

chrF is an F-score over character n-grams up to 6 with recall weighted twice
(Popović 2015, https://aclanthology.org/W15-3049), here for one row at a time
and in 0..1.

A metric of the user's own: a function of output and gold answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from nanodistill.errors import InputError
from nanodistill.plugins import user_code
from nanodistill.values import (
    Number,
    label_set,
    normalized,
    number_of,
    numbers_in,
    same_number,
    unwrapped,
)

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF


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


__all__ = ["normalized"]


class ExactMatch:
    name = "exact"
    measure = "exact match"

    def score(self, output: str, gold: str) -> float:
        return float(normalized(output) == normalized(gold))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:  # noqa: ARG002 - all is said
        return {}


OTHER_LABEL = "(other)"
UNREADABLE = "(unreadable)"


@dataclass(frozen=True)
class LabelAccuracy:
    """`labels` is the closed set, in the order in which to show it."""

    labels: tuple[str, ...]

    name = "label"
    measure = "accuracy"

    def score(self, output: str, gold: str) -> float:
        return float(self._as_label(output) == self._as_label(gold))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        shown = self._shown(pairs)
        cells = Counter(
            (self._column(gold, shown), self._column(out, shown)) for out, gold in pairs
        )
        per_label = {label: _label_figures(label, cells) for label in shown.values()}
        f1 = [figures["f1"] for figures in per_label.values() if figures["support"]]
        columns = [*shown.values(), OTHER_LABEL, UNREADABLE]
        return {
            "macro_f1": sum(f1) / len(f1) if f1 else 0.0,
            "labels": per_label,
            "confusion": {
                "columns": columns,
                "rows": {
                    gold: [cells[gold, column] for column in columns] for gold in shown.values()
                },
            },
        }

    def _as_label(self, text: str) -> str:
        """The label that `text` is, and a text outside the set in normal form."""
        readings = map(label_set(self.labels).find, unwrapped(text))
        found = next((label for label in readings if label is not None), None)
        return found if found is not None else f"{OTHER_LABEL} {normalized(text)}"

    def _shown(self, pairs: Sequence[Pair]) -> dict[str, str]:
        """Folded label -> label as it is shown; gold answers outside the set join it."""
        shown: dict[str, str] = {}
        for label in (*self.labels, *(gold for _, gold in pairs)):
            shown.setdefault(self._as_label(label), label)
        return shown

    def _column(self, output: str | None, shown: dict[str, str]) -> str:
        return UNREADABLE if output is None else shown.get(self._as_label(output), OTHER_LABEL)


def _label_figures(label: str, cells: Counter[tuple[str, str]]) -> dict[str, float]:
    right = cells[label, label]
    support = sum(n for (gold, _), n in cells.items() if gold == label)
    said = sum(n for (_, output), n in cells.items() if output == label)
    return {
        "precision": right / said if said else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (said + support) if said + support else 0.0,
        "support": support,
        "predicted": said,
    }


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


class TextSimilarity:
    name = "text"
    measure = "chrF"

    def score(self, output: str, gold: str) -> float:
        return similarity(output, gold)

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Words of the outputs over words of the gold answers: 1 is as long as they should be."""
        read = [(output, gold) for output, gold in pairs if output is not None]
        said = sum(len(output.split()) for output, _ in read)
        wanted = sum(len(gold.split()) for _, gold in read)
        return {"length_ratio": said / wanted if wanted else None}


def similarity(output: str, gold: str) -> float:
    """chrF of `output` against `gold`, 0 to 1."""
    if output == gold:
        return 1.0
    score: float = _chrf().sentence_score(output, [gold]).score
    return min(1.0, score / 100)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


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
