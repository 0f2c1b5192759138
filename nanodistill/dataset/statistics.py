"""Figures of a version's rows, gathered as they pass by.

`distinct` is distinct-n (Li et al. 2016, arXiv:1510.03055): different word n-grams
of the inputs over all of them. It falls as text grows, so it is taken over the
same number of rows in every version: the first thousand training rows by id, which
is as good as chance. `distinct_over` says how many there were.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from nanodistill.dataset.manifest import Statistics
from nanodistill.dataset.rows import Row

WORD = re.compile(r"\w+")
ORDERS = (1, 2, 3)
DISTINCT_OVER = 1000
MEASURED = ("input", "thinking", "output")


class Figures:
    """Sums over rows that are shown to it: train, valid and test, each in order of id."""

    def __init__(self, labels: Collection[str] | None) -> None:
        self._labels = labels
        self._outputs: dict[str, Counter[str]] = defaultdict(Counter)
        self._sources: Counter[str] = Counter()
        self._thinking_from: Counter[str] = Counter()
        self._cells: Counter[str] = Counter()
        self._lengths: dict[str, array[int]] = {name: array("L") for name in MEASURED}
        self._grams: dict[int, Counter[tuple[str, ...]]] = {n: Counter() for n in ORDERS}
        self._sampled = 0
        self._confidence = (0.0, 1.0, 0)

    def see(self, row: Row, split: str) -> None:
        if self._labels is not None:
            self._outputs[split][row["output"]] += 1
        if split == "test":
            return
        self._sources[row["source"]] += 1
        self._cells[row["cell"]] += 1
        if row["thinking_from"] is not None:
            self._thinking_from[row["thinking_from"]] += 1
        for name in MEASURED:
            if row[name] is not None:
                self._lengths[name].append(len(row[name]))
        if split == "train" and self._sampled < DISTINCT_OVER:
            self._sample(row["input"])
        if row["confidence"] is not None:
            total, lowest, n = self._confidence
            self._confidence = (total + row["confidence"], min(lowest, row["confidence"]), n + 1)

    def _sample(self, text: str) -> None:
        words = WORD.findall(text.lower())
        for n, grams in self._grams.items():
            grams.update(zip(*(words[i:] for i in range(n)), strict=False))
        self._sampled += 1

    def result(self) -> Statistics:
        total, lowest, measured = self._confidence
        outputs = {split: dict(c.most_common()) for split, c in self._outputs.items()}
        return Statistics(
            outputs=None if self._labels is None else outputs,
            sources=dict(sorted(self._sources.items())),
            thinking_from=dict(sorted(self._thinking_from.items())),
            cells=dict(sorted(self._cells.items())),
            lengths={name: spread(found) for name, found in self._lengths.items() if found},
            distinct={
                f"distinct_{n}": round(len(grams) / grams.total(), 4)
                for n, grams in self._grams.items()
                if grams
            },
            distinct_over=self._sampled,
            confidence=(round(total / measured, 4), lowest) if measured else None,
        )


def spread(values: Sequence[int]) -> tuple[int, int, int]:
    """Median, 95th percentile and largest, each one of the values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[last // 2], ordered[round(last * 0.95)], ordered[-1]
