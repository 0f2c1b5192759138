"""The plan: shares are kept at every length, axes don't run in step, a prefix is a plan."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from nanodistill.synthesis.coverage import Axis, Cell, iter_cells

weights = st.dictionaries(
    st.text(st.characters(codec="ascii"), min_size=1, max_size=4),
    st.floats(0.1, 10),
    min_size=1,
    max_size=5,
)


def first(n: int, *axes: Axis, seed: int = 0, taken: dict[str, int] | None = None) -> list[Cell]:
    return list(islice(iter_cells(axes, seed=seed, taken=taken or {}), n))


@given(one=weights, two=weights, n=st.integers(1, 120), seed=st.integers(0, 5))
def test_counts_follow_the_weights_on_every_axis(
    one: dict[str, float], two: dict[str, float], n: int, seed: int
) -> None:
    axes = Axis.of("one", one), Axis.of("two", two)
    cells = first(n, *axes, seed=seed)
    for axis in axes:
        counts = Counter(dict(cell.values)[axis.name] for cell in cells)
        for value in axis.weights:
            assert abs(counts[value] - n * axis.shares[value]) < 2.5, (axis.name, counts)


def test_a_plan_is_the_beginning_of_a_longer_one() -> None:
    axes = Axis.of("label", ["a", "b", "c"]), Axis.of("length", {"short": 1, "long": 2})
    assert first(40, *axes) == first(100, *axes)[:40]
    assert first(40, *axes, seed=1) != first(40, *axes, seed=2)


def test_a_full_grid_is_filled_evenly() -> None:
    axes = [Axis.of(name, "xyz") for name in ("one", "two", "three")]
    counts = Counter(first(27 * 4, *axes))
    assert len(counts) == 27
    assert max(counts.values()) - min(counts.values()) <= 3


def test_axes_do_not_run_in_step_where_there_are_more_cells_than_rows() -> None:
    axes = [
        Axis.of("topic", [f"t{n}" for n in range(30)]),
        Axis.of("a", "xyz"),
        Axis.of("b", "xyz"),
    ]
    pairs = Counter((dict(cell.values)["a"], dict(cell.values)["b"]) for cell in first(90, *axes))
    assert len(pairs) == 9
    assert max(pairs.values()) <= 20


def test_labels_make_up_for_what_the_seeds_have() -> None:
    axis = Axis.of("label", ["a", "b"])
    labels = Counter(cell.label for cell in first(10, axis, taken={"a": 6}))
    assert labels == {"a": 2, "b": 8}


def test_without_axes_every_cell_is_the_same() -> None:
    assert first(3) == [Cell(), Cell(), Cell()]
    assert Cell().name == ""
    assert Cell((("label", "bug"), ("style", "terse"))).name == "label=bug; style=terse"
