"""Label accuracy, with F1 for each label and the confusion matrix.

An output is a label only where it equals one after normalization; anything
else is a wrong answer in the column `(other)`, an unreadable one in
`(unreadable)`. Macro-F1 is the plain mean of F1 over the labels that occur
among the gold answers: a label that no test row has can't be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.evaluation.metrics.metric import Pair
from nanodistill.evaluation.normalization import normalized
from nanodistill.records import canonical_text

OTHER = "(other)"
UNREADABLE = "(unreadable)"


@dataclass(frozen=True)
class LabelAccuracy:
    """`labels` is the closed set, in the order in which to show it."""

    labels: tuple[str, ...]

    name = "label"
    measure = "accuracy"

    def score(self, output: str, gold: str) -> float:
        fold = self._fold
        return float(fold(output) == fold(gold))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        shown = self._shown(pairs)
        cells = Counter(
            (self._column(gold, shown), self._column(out, shown)) for out, gold in pairs
        )
        per_label = {label: _label_figures(label, cells) for label in shown.values()}
        f1 = [figures["f1"] for figures in per_label.values() if figures["support"]]
        columns = [*shown.values(), OTHER, UNREADABLE]
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

    @property
    def _fold(self) -> Callable[[str], str]:
        """Normalization, or its mildest part where it would make two labels one."""
        together = {normalized(label) for label in self.labels}
        return normalized if len(together) == len(self.labels) else canonical_text

    def _shown(self, pairs: Sequence[Pair]) -> dict[str, str]:
        """Folded label -> label as it is shown; gold answers outside the set join it."""
        shown: dict[str, str] = {}
        for label in (*self.labels, *(gold for _, gold in pairs)):
            shown.setdefault(self._fold(label), label)
        return shown

    def _column(self, output: str | None, shown: dict[str, str]) -> str:
        return UNREADABLE if output is None else shown.get(self._fold(output), OTHER)


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
