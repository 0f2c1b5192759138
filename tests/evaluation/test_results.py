"""The words say what the numbers say."""

from __future__ import annotations

import pytest

from nanodistill.evaluation.results import describe_comparison
from nanodistill.stats import Paired, compare


def shares(only_first: int, only_second: int, both: int, neither: int) -> Paired:
    pairs = [(1, 0)] * only_first + [(0, 1)] * only_second + [(1, 1)] * both + [(0, 0)] * neither
    return compare([first for first, _ in pairs], [second for _, second in pairs])


@pytest.mark.parametrize(
    ("paired", "words"),
    [
        (shares(40, 3, 20, 17), "ahead by 46 points (95%: 32 to 57), p < 0.001, 80 rows"),
        (shares(3, 40, 20, 17), "behind by 46 points (95%: 32 to 57), p < 0.001, 80 rows"),
        (shares(9, 1, 10, 10), "ahead by 27 points (95%: 7 to 43), p = 0.021, 30 rows"),
        (
            shares(3, 2, 4, 3),
            "not distinguishable from chance on 12 rows: "
            "ahead by 8 points (95%: -28 to 42), p = 1.00",
        ),
        (
            shares(0, 0, 4, 3),
            "not distinguishable from chance on 7 rows: level (95%: -23 to 23), p = 1.00",
        ),
        (
            shares(5, 0, 0, 0),
            "not distinguishable from chance on 5 rows: ahead by 100 points (95%: 39 to 100), "
            "p = 0.062; fewer than 6 rows can show no difference",
        ),
    ],
)
def test_verdicts(paired: Paired, words: str) -> None:
    assert describe_comparison(paired) == words


def test_a_fraction_of_a_point_is_not_rounded_away() -> None:
    paired = Paired(0.004, -0.01, 0.018, 0.4, 500, "bootstrap")
    assert "ahead by 0.4 points (95%: -1 to 2), p = 0.40" in describe_comparison(paired)
