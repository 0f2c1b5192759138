"""Keeping the test fair: no training row may give a test row away.

A row is contaminated when its input is a test input, exactly or nearly, or
shares a run of words with one. Runs that two or more seeds contain are the
wording of the task itself (a fixed opening of every input) and do not count.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.curation.filters import exact_key
from nanodistill.curation.minhash import NearIndex, words_of
from nanodistill.types import Seed, Trace

RUN = 8
"""Words. GPT-3 was checked with 13, PaLM with 8 (Brown et al. 2020, Chowdhery et al. 2022); inputs
here are short, so the smaller one. At half, everyday phrases would count."""


def runs_of(text: str) -> dict[int, str]:
    """Runs of `RUN` words in `text`, by hash."""
    words = words_of(text)
    runs = [" ".join(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
    return {zlib.crc32(run.encode("utf-8", "surrogatepass")): run for run in runs}


class ContaminationFilter:
    """Refuses rows that are too near to a test row."""

    name = "contamination"

    def __init__(self, test: Iterable[Seed], seeds: Sequence[Seed], threshold: float) -> None:
        common = Counter(run for seed in seeds for run in runs_of(seed.input))
        self._wording = {run for run, seeds_with_it in common.items() if seeds_with_it > 1}
        self._exact: dict[bytes, int] = {}
        self._runs: dict[int, int] = {}
        self._near = NearIndex(threshold)
        self._ids: list[str] = []
        for row in test:
            self._learn(row)

    def _learn(self, row: Seed) -> None:
        number = self._near.add(row.input)
        self._ids.append(row.id)
        self._exact.setdefault(exact_key(row.input), number)
        for run in runs_of(row.input).keys() - self._wording:
            self._runs.setdefault(run, number)

    def __call__(self, row: Trace) -> Trace | Rejected:
        if not self._ids:
            return row
        if (number := self._exact.get(exact_key(row.input))) is not None:
            return Rejected("contaminated", f"is the test row {self._ids[number]}")
        if (near := self._near.nearest(row.input)) is not None:
            return Rejected("contaminated", f"{near[1]:.0%} the test row {self._ids[near[0]]}")
        for run, words in runs_of(row.input).items():
            if run in self._runs:
                test_id = self._ids[self._runs[run]]
                return Rejected("contaminated", f"shares '{words}' with the test row {test_id}")
        return row
