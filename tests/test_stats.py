"""Intervals and tests against published figures and exhaustive counts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nanodistill.stats import BOOTSTRAP_SEED, compare, estimate, mcnemar, newcombe, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, Stat. Med. 17, 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(right: int, n: int, low: float, high: float) -> None:
    found = wilson(right, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == right / n


def test_wilson_is_symmetric() -> None:
    assert wilson(20, 20).low == pytest.approx(1 - wilson(0, 20).high)
    assert wilson(20, 20).high == 1.0


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Fagerland, Lydersen, Laake: Statistical Analysis of Contingency Tables, chapter 8.
        ((59, 6, 16, 80), -0.1186, -0.0046),
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_newcombe_gives_the_published_intervals(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    assert newcombe(*table) == pytest.approx((low, high), abs=5e-4)


def test_mcnemar_gives_the_published_p_and_every_split_of_ten() -> None:
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(6, 16) == pytest.approx(0.0525, abs=5e-5)
    for first in range(11):
        as_far = sum(abs(sum(coins) - 5) >= abs(first - 5) for coins in product((0, 1), repeat=10))
        assert mcnemar(first, 10 - first) == pytest.approx(as_far / 2**10)


def test_mcnemar_of_no_difference_and_of_thousands_of_rows() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(2000, 2000) == 1.0
    assert 0 <= mcnemar(0, 4000) < 1e-300


def test_shares_are_compared_by_their_2_by_2_table() -> None:
    scores = [1.0] * 59 + [1.0] * 6 + [0.0] * 16 + [0.0] * 80
    against = [1.0] * 59 + [0.0] * 6 + [1.0] * 16 + [0.0] * 80
    paired = compare(scores, against)
    assert (paired.test, paired.n) == ("mcnemar", 161)
    assert paired.diff == pytest.approx(-10 / 161)
    assert (paired.low, paired.high) == newcombe(59, 6, 16, 80)
    assert paired.p == mcnemar(6, 16)
    back = compare(against, scores)
    assert (back.diff, back.p) == (-paired.diff, paired.p)
    assert (back.low, back.high) == pytest.approx((-paired.high, -paired.low))


def test_graded_scores_are_bootstrapped_close_to_the_normal_interval() -> None:
    scores = list(np.random.default_rng(1).beta(2, 2, size=400))
    error = np.std(scores, ddof=1) / 20
    found = estimate(scores)
    assert found.value == pytest.approx(np.mean(scores))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.1 * error)


def test_the_bootstrap_is_seeded() -> None:
    assert BOOTSTRAP_SEED == 0
    scores = [0.1, 0.7, 0.35, 0.9]
    assert estimate(scores) == estimate(scores)


def test_the_bootstrap_test_tells_a_shift_from_noise() -> None:
    random = np.random.default_rng(2)
    base = random.uniform(0.2, 0.6, size=60)
    noise = random.normal(0, 0.1, size=60)
    better = compare(list(base + 0.1 + noise), list(base))
    assert better.test == "bootstrap"
    assert better.p < 0.001
    assert better.low < better.diff < better.high
    assert better.low > 0
    same = compare(list(base + noise - noise.mean()), list(base))
    assert same.p > 0.9
    assert same.low < 0 < same.high


def test_the_bootstrap_test_is_right_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    draws = random.normal(0, 0.1, size=(200, 40))
    significant = sum(compare(list(row), [0.0] * 40).is_significant for row in draws)
    assert 2 <= significant <= 20


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 scores"):
        compare([1, 0, 1], [1, 0])
