"""The split: whole groups, the right share, the same whatever the order."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanodistill.curation.split import SplitAssignment, SplitRow, split_rows


def members(sizes: Sequence[int], strata: Sequence[str] = ("",)) -> list[SplitRow]:
    """Groups of these sizes, one stratum each in turn."""
    return [
        SplitRow(f"{g}-{i}", "synthetic", (f"call {g}",), strata[g % len(strata)])
        for g, size in enumerate(sizes)
        for i in range(size)
    ]


def valid_ids(sides: SplitAssignment) -> set[str]:
    return {id for id, split in sides.split_of.items() if split == "valid"}


def groups_of(rows: Sequence[SplitRow], ids: set[str]) -> set[str]:
    return {row.groups[0] for row in rows if row.id in ids}


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=40),
    val_split=st.floats(0.01, 0.5),
    random_seed=st.integers(0, 5),
    strata=st.integers(1, 6),
)
def test_whole_groups_and_the_share_that_they_allow(
    sizes: list[int], val_split: float, random_seed: int, strata: int
) -> None:
    rows = members(sizes, [f"label {n}" for n in range(strata)])
    sides = split_rows(rows, val_split=val_split, random_seed=random_seed)
    valid = valid_ids(sides)
    train = {row.id for row in rows} - valid
    assert valid
    assert train
    assert not groups_of(rows, valid) & groups_of(rows, train)
    assert sides.groups == len(sizes)
    assert sides.valid_groups == len(groups_of(rows, valid))
    wanted = max(1, round(len(rows) * val_split))
    smallest_left = min(Counter(row.groups[0] for row in rows if row.id in train).values())
    smallest_in = min(Counter(row.groups[0] for row in rows if row.id in valid).values())
    assert abs(len(valid) - wanted) <= max(smallest_left, smallest_in) / 2 or (
        sides.valid_groups == 1 and smallest_in == min(sizes)
    )


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=30), shuffle=st.integers(0, 100))
def test_the_order_of_rows_does_not_matter(sizes: list[int], shuffle: int) -> None:
    rows = members(sizes, ["a", "b"])
    shuffled = random.Random(shuffle).sample(rows, len(rows))
    first = split_rows(rows, val_split=0.2, random_seed=0)
    assert split_rows(shuffled, val_split=0.2, random_seed=0) == first


def test_another_random_seed_gives_another_split() -> None:
    rows = members([1] * 100)
    drawn = [valid_ids(split_rows(rows, val_split=0.2, random_seed=n)) for n in range(3)]
    assert [len(valid) for valid in drawn] == [20, 20, 20]
    assert drawn[0] != drawn[1] != drawn[2]


def test_each_label_has_its_share() -> None:
    rows = [SplitRow(str(n), "synthetic", (), ("rare", "often")[n % 10 > 0]) for n in range(200)]
    valid = valid_ids(split_rows(rows, val_split=0.2, random_seed=0))
    found = Counter(row.label for row in rows if row.id in valid)
    assert found == {"rare": 4, "often": 36}


def test_many_cells_too_small_for_a_share_of_their_own_still_fill_the_split() -> None:
    rows = [SplitRow(str(n), "synthetic", (), "", f"cell {n // 2}") for n in range(100)]
    valid = valid_ids(split_rows(rows, val_split=0.2, random_seed=0))
    assert len(valid) == 20
    assert max(Counter(row.cell for row in rows if row.id in valid).values()) == 1


def test_calls_of_one_label_give_each_label_its_turn() -> None:
    """Five rows to a call, one label to a call: three calls go over, of three labels."""
    rows = [
        SplitRow(f"{g}-{i}", "synthetic", (f"call {g}",), f"label {g % 4}", f"cell {g} {i}")
        for g in range(12)
        for i in range(5)
    ]
    rows += [SplitRow(f"seed {n}", "seed", (), f"label {n % 4}") for n in range(12)]
    for random_seed in range(20):
        valid = valid_ids(split_rows(rows, val_split=0.2, random_seed=random_seed))
        found = Counter(row.label for row in rows if row.id in valid)
        assert sorted(found.values()) == [5, 5, 5]


def test_within_a_label_its_cells_have_their_turn() -> None:
    rows = [
        SplitRow(str(n), "synthetic", (), "ab"[n % 2], f"cell {n // 2 % 5}") for n in range(100)
    ]
    valid = valid_ids(split_rows(rows, val_split=0.2, random_seed=0))
    assert Counter(row.label for row in rows if row.id in valid) == {"a": 10, "b": 10}
    assert set(Counter(row.cell for row in rows if row.id in valid).values()) == {4}


def test_calls_of_mixed_labels_balance_each_other() -> None:
    mixes = ["aaab", "abbb", "aabb", "aaaa", "bbbb"] * 8
    rows = [
        SplitRow(f"{g}-{i}", "synthetic", (f"call {g}",), label)
        for g, mix in enumerate(mixes)
        for i, label in enumerate(mix)
    ]
    for random_seed in range(10):
        valid = valid_ids(split_rows(rows, val_split=0.2, random_seed=random_seed))
        found = Counter(row.label for row in rows if row.id in valid)
        assert found.total() == 32
        assert abs(found["a"] - found["b"]) <= 4


def test_a_hundred_thousand_rows_are_quickly_split() -> None:
    rows = [
        SplitRow(str(n), "synthetic", (f"call {n // 5}",), f"label {n // 5 % 7}", f"cell {n % 500}")
        for n in range(100_000)
    ]
    begin = time.process_time()
    valid = valid_ids(split_rows(rows, val_split=0.2, random_seed=0))
    assert len(valid) == 20_000
    assert time.process_time() - begin < 20


def test_rows_joined_by_a_chain_of_keys_stay_together() -> None:
    chain = [SplitRow(f"c{n}", "synthetic", (f"k{n}", f"k{n + 1}")) for n in range(5)]
    others = [SplitRow(f"o{n}", "synthetic") for n in range(5)]
    sides = split_rows([*others, *chain], val_split=0.5, random_seed=0)
    assert len({sides.split_of[row.id] for row in chain}) == 1
    assert sides.groups == 6


def test_a_group_key_is_no_row_id() -> None:
    rows = [SplitRow("a", "synthetic", ("b",)), SplitRow("b", "synthetic", ("x",))]
    assert split_rows(rows, val_split=0.5, random_seed=0).groups == 2


def test_seeds_train_and_take_their_group_along() -> None:
    seeds = [SplitRow(f"s{n}", "seed") for n in range(10)]
    near_a_seed = SplitRow("n", "synthetic", ("cluster",))
    seeds[0] = SplitRow("s0", "seed", ("cluster",))
    others = [SplitRow(f"o{n}", "synthetic") for n in range(10)]
    valid = valid_ids(split_rows([*seeds, near_a_seed, *others], val_split=0.3, random_seed=0))
    assert len(valid) == 6
    assert valid <= {row.id for row in others}


def test_seeds_alone_are_split_too() -> None:
    valid = valid_ids(
        split_rows([SplitRow(f"s{n}", "seed") for n in range(10)], val_split=0.2, random_seed=0)
    )
    assert len(valid) == 2


@pytest.mark.parametrize(
    ("rows", "val_split"),
    [([], 0.2), (members([1]), 0.2), (members([7]), 0.2), (members([1, 1, 1]), 0.0)],
    ids=["no row", "one row", "one group", "no share"],
)
def test_no_validation_where_there_can_be_none(rows: list[SplitRow], val_split: float) -> None:
    sides = split_rows(rows, val_split=val_split, random_seed=0)
    assert valid_ids(sides) == set()
    assert sides.valid_groups == 0
