"""Intervals and paired tests for scores in 0..1, one score a row.

Two cases, told apart by the scores themselves. Where every score is 0 or 1 the
mean is a share, and closed formulas hold down to a handful of rows:

    one share           Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212)
    paired difference   Newcombe's method 10 (Newcombe 1998, Stat. Med. 17, 2635-2650)
    paired test         McNemar's test, exact and two-sided (McNemar 1947, Psychometrika 12)

Else the rows are resampled: percentile intervals of the mean and of the mean
paired difference, and a two-sided test on the differences shifted to mean zero
(Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 16).
The bootstrap is seeded: the same scores give the same figures.

Everything is at 95%. The test decides what is said in words, the interval says
how much; the two are different procedures and may disagree at the edge. Rows
are taken as independent, which near-duplicate test rows are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""The 97.5% point of the standard normal distribution."""
SIGNIFICANT = 0.05
RESAMPLES = 10_000
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
    """How far one model is ahead of another on the same rows: mean difference and test."""

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
    """Mean and 95% interval of one model's scores, of which there is at least one."""
    if is_binary(scores):
        return wilson(round(sum(scores)), len(scores))
    means = _resampled_means(np.asarray(scores, dtype=float))
    return ScoreEstimate(float(np.mean(scores)), *_middle(means))


def compare(scores: Scores, against: Scores) -> Paired:
    """`scores` less `against`, row by row in the same order."""
    if len(scores) != len(against):
        raise ValueError(f"{len(scores)} scores can't be paired with {len(against)}")
    if is_binary(scores) and is_binary(against):
        return _compare_shares(scores, against)
    return _compare_means(scores, against)


def is_binary(scores: Scores) -> bool:
    return all(score in (0, 1) for score in scores)


def wilson(right: int, n: int) -> ScoreEstimate:
    """Wilson's score interval of `right` out of `n`, without continuity correction."""
    share = right / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low = 0.0 if right == 0 else centre - half
    high = 1.0 if right == n else centre + half
    return ScoreEstimate(share, low, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test, from the rows that one of the two got right alone."""
    discordant = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(comb(discordant, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def newcombe(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """95% interval of the difference of two paired shares: Newcombe's method 10."""
    n = both + only_first + only_second + neither
    first, second = wilson(both + only_first, n), wilson(both + only_second, n)
    phi = _correlation(both, only_first, only_second, neither)
    diff = (only_first - only_second) / n
    down = _combined(first.value - first.low, second.high - second.value, phi)
    up = _combined(first.high - first.value, second.value - second.low, phi)
    return max(-1.0, diff - down), min(1.0, diff + up)


def _combined(one: float, other: float, phi: float) -> float:
    return sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2 x 2 table, with Newcombe's continuity correction where it is positive."""
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    if margins == 0:
        return 0.0
    product = both * neither - only_first * only_second
    n = both + only_first + only_second + neither
    corrected = max(product - n / 2, 0.0) if product > 0 else product
    return corrected / sqrt(margins)


def _compare_shares(scores: Scores, against: Scores) -> Paired:
    pairs = list(zip(scores, against, strict=True))
    both, only_first = pairs.count((1, 1)), pairs.count((1, 0))
    only_second, neither = pairs.count((0, 1)), pairs.count((0, 0))
    low, high = newcombe(both, only_first, only_second, neither)
    return Paired(
        diff=(only_first - only_second) / len(pairs),
        low=low,
        high=high,
        p=mcnemar(only_first, only_second),
        n=len(pairs),
        test="mcnemar",
    )


def _compare_means(scores: Scores, against: Scores) -> Paired:
    differences = np.asarray(scores, dtype=float) - np.asarray(against, dtype=float)
    observed = float(differences.mean())
    means = _resampled_means(differences)
    low, high = _middle(means)
    # The tiny allowance counts a resample that ties with the observed mean but for rounding.
    as_far = np.abs(means - observed) >= abs(observed) - 1e-12
    p = (1 + int(as_far.sum())) / (1 + RESAMPLES)
    return Paired(observed, low, high, p, len(differences), "bootstrap")


def _resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of `RESAMPLES` samples with replacement, drawn in pieces to bound memory."""
    random = np.random.default_rng(BOOTSTRAP_SEED)
    piece = max(1, RESAMPLED_AT_ONCE // len(values))
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, piece):
        size = (min(piece, RESAMPLES - start), len(values))
        means.append(values[random.integers(len(values), size=size)].mean(axis=1))
    return np.concatenate(means)


def _middle(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
