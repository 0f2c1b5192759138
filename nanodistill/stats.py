"""Intervals and paired tests for scores from 0 to 1, one score per row.

Where every score is 0 or 1, the mean is a share, and closed formulas hold down to
a handful of rows:

    one share           Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212)
    paired difference   Newcombe's method 10 (Newcombe 1998, Stat. Med. 17, 2635-2650)
    paired test         McNemar's test, exact and two-sided (McNemar 1947, Psychometrika 12)

Otherwise rows are resampled: percentile intervals of the mean and of the mean
paired difference, and a two-sided test on the differences shifted to mean zero
(Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 16).
The bootstrap is seeded: equal scores give equal figures.

Intervals are at 95%. The test decides what a verdict claims, the interval says how
much; they are different procedures and may disagree at the edge. Rows are taken as
independent, which near-duplicate test rows are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # the 97.5% point of the standard normal distribution
SIGNIFICANT = 0.05
# The standard error of a p of 0.05 is then 0.002, so the verdict hardly depends on the seed; half
# as many make it 0.003, twice as many take twice the time for 0.0015.
RESAMPLES = 10_000
# Row indices drawn at once: 32 MB, whatever the number of rows. Speed hardly depends on it.
RESAMPLED_AT_ONCE = 4_000_000
BOOTSTRAP_SEED = 0

Scores = Sequence[float]


@dataclass(frozen=True, slots=True)
class ScoreEstimate:
    """A mean score with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Paired:
    """One model's lead over another on the same `n` rows.

    `diff` is the mean difference of scores, in a 95% interval from `low` to `high`; `p` is the
    two-sided p-value of `test`.
    """

    diff: float
    low: float
    high: float
    p: float
    n: int
    test: Literal["mcnemar", "bootstrap"]

    @property
    def is_significant(self) -> bool:
        return self.p < SIGNIFICANT


def estimate(scores: Scores) -> ScoreEstimate:
    """Mean and 95% interval of one model's scores, at least one."""
    if is_binary(scores):
        return wilson(round(sum(scores)), len(scores))
    means = _resampled_means(np.asarray(scores, dtype=float))
    return ScoreEstimate(float(np.mean(scores)), *_central_95(means))


def compare(scores: Scores, against: Scores) -> Paired:
    """`scores` minus `against`, paired by position.

    Raises:
        ValueError: they differ in length.
    """
    if len(scores) != len(against):
        raise ValueError(f"{len(scores)} scores can't be paired with {len(against)}")
    if is_binary(scores) and is_binary(against):
        return _compare_shares(scores, against)
    return _compare_means(scores, against)


def is_binary(scores: Scores) -> bool:
    return all(score in (0, 1) for score in scores)


def wilson(right: int, n: int) -> ScoreEstimate:
    """The share `right` of `n` with Wilson's score interval, without continuity correction.

    Example:
        >>> wilson(1, 29)
        ScoreEstimate(value=0.0344..., low=0.0061..., high=0.1717...)
    """
    share = right / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17 on the wrong side.
    low = 0.0 if right == 0 else centre - half
    high = 1.0 if right == n else centre + half
    return ScoreEstimate(share, low, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test, from the rows that only one of the two got right."""
    discordant = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(comb(discordant, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def newcombe(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """95% interval of the difference of two paired shares, from their 2 x 2 table."""
    n = both + only_first + only_second + neither
    first, second = wilson(both + only_first, n), wilson(both + only_second, n)
    # Phi of the table, with Newcombe's continuity correction if it is positive.
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - n / 2, 0.0)
    phi = product / sqrt(margins) if margins else 0.0

    def combined(a: float, b: float) -> float:
        return sqrt(max(0.0, a**2 - 2 * phi * a * b + b**2))

    diff = (only_first - only_second) / n
    down = combined(first.value - first.low, second.high - second.value)
    up = combined(first.high - first.value, second.value - second.low)
    return max(-1.0, diff - down), min(1.0, diff + up)


def _compare_shares(scores: Scores, against: Scores) -> Paired:
    pairs = list(zip(scores, against, strict=True))
    both, only_first = pairs.count((1, 1)), pairs.count((1, 0))
    only_second, neither = pairs.count((0, 1)), pairs.count((0, 0))
    low, high = newcombe(both, only_first, only_second, neither)
    diff, p = (only_first - only_second) / len(pairs), mcnemar(only_first, only_second)
    return Paired(diff, low, high, p, len(pairs), "mcnemar")


def _compare_means(scores: Scores, against: Scores) -> Paired:
    differences = np.asarray(scores, dtype=float) - np.asarray(against, dtype=float)
    observed = float(differences.mean())
    means = _resampled_means(differences)
    # The allowance counts a resample that ties with the observed mean up to rounding.
    as_extreme = np.abs(means - observed) >= abs(observed) - 1e-12
    p = (1 + int(as_extreme.sum())) / (1 + RESAMPLES)
    return Paired(observed, *_central_95(means), p, len(differences), "bootstrap")


def _resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of `RESAMPLES` samples with replacement."""
    random = np.random.default_rng(BOOTSTRAP_SEED)
    step = max(1, RESAMPLED_AT_ONCE // len(values))
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, step):
        size = (min(step, RESAMPLES - start), len(values))
        means.append(values[random.integers(len(values), size=size)].mean(axis=1))
    return np.concatenate(means)


def _central_95(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
