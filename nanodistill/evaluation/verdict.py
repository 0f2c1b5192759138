"""The comparison in words, as strong as the numbers and no stronger."""

from __future__ import annotations

from nanodistill.evaluation.statistics import SIGNIFICANT, Paired

FEWEST = next(n for n in range(1, 100) if 2 / 2**n < SIGNIFICANT)
"""Rows below which no paired test of right and wrong can tell a difference."""


def in_words(paired: Paired) -> str:
    """As in "ahead by 46 points (95%: 31 to 59), p < 0.001, 80 rows"."""
    rows = f"{paired.n} row{'' if paired.n == 1 else 's'}"
    found = f"{_standing(paired)}, {probability(paired.p)}"
    if paired.is_significant:
        return f"{found}, {rows}"
    return f"not distinguishable from chance on {rows}: {found}{_few(paired)}"


def points(share: float) -> str:
    """A share as points, "46" or "0.4": whole ones where they say enough."""
    value = 100 * share
    return f"{value:.1f}" if 0 < abs(value) < 1 else f"{value:.0f}"


def _standing(paired: Paired) -> str:
    interval = f"(95%: {points(paired.low)} to {points(paired.high)})"
    if paired.diff == 0:
        return f"level {interval}"
    word = "ahead" if paired.diff > 0 else "behind"
    low, high = (paired.low, paired.high) if paired.diff > 0 else (-paired.high, -paired.low)
    unit = "point" if points(abs(paired.diff)) == "1" else "points"
    return f"{word} by {points(abs(paired.diff))} {unit} (95%: {points(low)} to {points(high)})"


def probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def _few(paired: Paired) -> str:
    if paired.test == "bootstrap" or paired.n >= FEWEST:
        return ""
    return f"; fewer than {FEWEST} rows can show no difference"
