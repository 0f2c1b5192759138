"""Figures as people read them."""

from __future__ import annotations

import pytest

from nanodistill.formatting import dollars, percent, plural


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (0.00001, "<$0.0001"),
        (0.0031, "$0.0031"),
        (0.25, "$0.25"),
        (12.5, "$12.50"),
        (1234.567, "$1,234.57"),
    ],
)
def test_dollars_show_only_nothing_as_nothing(cost: float | None, shown: str) -> None:
    assert dollars(cost) == shown


def test_a_share_below_a_point_keeps_a_digit() -> None:
    assert [percent(share) for share in (0, 0.004, 0.46, 1)] == ["0%", "0.4%", "46%", "100%"]


def test_plurals() -> None:
    assert [plural(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
