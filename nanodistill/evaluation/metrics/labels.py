"""Label accuracy, with F1 for each label and the confusion matrix.

An output is a label only where it is written like one (see `values.LabelSet`: case, quotes and
a full stop don't count, marks and signs do); anything else is a wrong answer in the column
`(other)`, an unreadable one in `(unreadable)`. Macro-F1 is the plain mean of F1 over the labels
that occur among the gold answers: a label that no test row has can't be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.evaluation.metrics.metric import Pair
from nanodistill.values import label_set, normalized, unwrapped

OTHER = "(other)"
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

    def _as_label(self, text: str) -> str:
        """The label that `text` is, and a text outside the set in normal form."""
        readings = map(label_set(self.labels).find, unwrapped(text))
        found = next((label for label in readings if label is not None), None)
        return found if found is not None else f"{OTHER} {normalized(text)}"

    def _shown(self, pairs: Sequence[Pair]) -> dict[str, str]:
        """Folded label -> label as it is shown; gold answers outside the set join it."""
        shown: dict[str, str] = {}
        for label in (*self.labels, *(gold for _, gold in pairs)):
            shown.setdefault(self._as_label(label), label)
        return shown

    def _column(self, output: str | None, shown: dict[str, str]) -> str:
        return UNREADABLE if output is None else shown.get(self._as_label(output), OTHER)


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
