"""Rows of an answer by the slots that they name."""

from __future__ import annotations

import pytest

from nanodistill.synthesis.generation_parser import Example, InvalidExample, Row, by_slot


def row(text: str, slot: int | None = None) -> Row:
    return Example(text, slot=slot)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("c", 3), row("a", 1), row("b", 2)], ["a", "b", "c"]),
        ([row("a", 1), row("c", 3)], ["a", None, "c"]),
        ([row("a", 0), row("b", 1), row("c", 2)], ["a", "b", "c"]),
        ([row("a"), row("b"), row("c")], ["a", "b", "c"]),
        ([row("c", 3), row("x"), row("b", 2)], ["x", "b", "c"]),
        ([row("a", 1), row("again", 1), row("c", 3)], ["a", "again", "c"]),
        ([row("a", 1), row("b", 2), row("c", 3), row("d", 4)], ["a", "b", "c", "d"]),
        ([row("far", 99), row("a", 1)], ["a", "far", None]),
        ([InvalidExample("?", "no input", slot=2), row("a", 1)], ["a", "?", None]),
        ([], [None, None, None]),
    ],
)
def test_rows_go_to_the_slots_that_they_name(rows: list[Row], expected: list[str | None]) -> None:
    found = [one and (one.input if isinstance(one, Example) else one.text)
             for one in by_slot(rows, 3)]  # fmt: skip
    assert found == expected
