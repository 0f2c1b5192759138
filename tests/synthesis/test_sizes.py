from __future__ import annotations

import pytest

from nanodistill.synthesis.rounds import round_size


def sizes(wanted: int, max_rounds: int = 20) -> list[int]:
    """The rounds of a run in which every row is good."""
    taken: list[int] = []
    while (left := wanted - sum(taken)) > 0:
        size = round_size(
            len(taken) + 1, taken=sum(taken), left=left, wanted=wanted, max_rounds=max_rounds
        )
        taken.append(min(size, left))
    return taken


def test_rounds_begin_small_and_grow() -> None:
    assert sizes(100) == [100]
    assert sizes(300) == [128, 128, 44]
    assert sizes(2000) == [128, 128, 128, 128, 128, 160, 200, 250, 312, 390, 48]


def test_who_wants_more_takes_the_same_first_rounds() -> None:
    few, many = sizes(900), sizes(5000)
    assert many[: len(few) - 1] == few[:-1]


@pytest.mark.parametrize(("wanted", "max_rounds"), [(100_000, 20), (5000, 4), (5000, 1)])
def test_a_quarter_of_the_rounds_is_left_for_topping_up(wanted: int, max_rounds: int) -> None:
    assert len(sizes(wanted, max_rounds)) <= max(1, max_rounds * 3 // 4)
