"""Every row in every epoch, in an order that follows from seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanodistill.training.batches import (
    PADDING_GOAL,
    BatchSampler,
    assemble,
    batches_for_scoring,
    batches_of_update,
    fit_window,
    padding_share,
    split_update,
)
from nanodistill.training.tokenize import Example, TokenRows, shared_tokens

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=70)


def sampler_of(lengths: list[int], size: int = 4, window: int = 16, seed: int = 0) -> BatchSampler:
    return BatchSampler(np.asarray(lengths), size, max(size, window // size * size), seed)


def rows_of(lengths: list[int]) -> TokenRows:
    return TokenRows.from_examples([Example(range(1, n + 1), max(1, n // 2)) for n in lengths])


@given(LENGTHS, st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_every_row_is_trained_once_in_every_epoch(
    lengths: list[int], size: int, windows: int, epoch: int
) -> None:
    sampler = BatchSampler(np.asarray(lengths), size, windows * size, seed=5)
    first = epoch * sampler.updates_per_epoch
    updates = [sampler.rows_of(first + place) for place in range(sampler.updates_per_epoch)]
    assert sorted(row for rows in updates for row in rows) == list(range(len(lengths)))
    assert sorted(map(len, updates))[1:] == [size] * (sampler.updates_per_epoch - 1)


def test_the_sampler_follows_from_the_seed_and_changes_with_the_epoch() -> None:
    lengths = [3, 9, 4, 8, 5, 7, 6, 3, 9, 4, 8]
    orders = {
        (seed, epoch): [
            tuple(sampler_of(lengths, seed=seed).rows_of(epoch * 3 + n)) for n in range(3)
        ]
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert orders[0, 0] == [tuple(sampler_of(lengths).rows_of(n)) for n in range(3)]
    assert len({str(order) for order in orders.values()}) == 4
    together = {frozenset(map(frozenset, order)) for order in orders.values()}
    assert len(together) == 4, "who is in a batch with whom changes too, not only the order"


@given(LENGTHS, st.integers(1, 8))
@settings(max_examples=50)
def test_an_updates_batches_hold_its_rows(lengths: list[int], batches: int) -> None:
    rows = np.arange(len(lengths))
    parts = split_update(rows, np.asarray(lengths), batches)
    assert len(parts) == batches
    assert sorted(np.concatenate(parts)) == sorted(rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_half_the_batch_and_twice_the_accumulation_are_the_same_updates() -> None:
    sampler = sampler_of([3, 9, 4, 8, 5, 7, 6, 3, 9])
    rows = sampler.rows_of(0)
    assert {*rows} == {
        r for n in (1, 2, 4) for part in split_update(rows, sampler.lengths, n) for r in part
    }


def test_padding_stays_under_the_goal_on_rows_of_usual_lengths() -> None:
    lengths = np.random.default_rng(0).integers(20, 160, 480)
    sampler = fit_window(lengths, 8, 1, 1, seed=0)
    assert all(padding_share(sampler, 1, 1, epoch) < 0.05 for epoch in range(3))
    assert padding_share(sampler, 1, 1) < PADDING_GOAL
    shuffled = BatchSampler(lengths, 8, 8, 0)
    assert padding_share(shuffled, 1, 1) > 0.2


def test_rows_of_one_length_are_samplert_as_freely_as_can_be() -> None:
    assert fit_window(np.full(400, 30), 8, 1, 1, seed=0).window == 4 * 8


def test_targets_are_the_answers_tokens_and_nothing_else() -> None:
    rows = TokenRows.from_examples([Example([1, 2, 3, 4, 5], 3), Example([6, 7, 8], 1)])
    batch = assemble(rows, [0, 1], weight=0.25, multiple=1)
    flat = batch.inputs[:, :-1].reshape(-1)
    assert batch.targets.tolist() == [4, 5, 7, 8]
    assert flat[batch.positions].tolist() == [3, 4, 6, 7], "each place holds the token before"
    assert batch.weights.tolist() == [0.25] * 4


def test_what_fills_up_weighs_nothing() -> None:
    rows = TokenRows.from_examples([Example([1, 2, 3], 2)])
    batch = assemble(rows, [0], weight=1.0, multiple=8)
    assert batch.inputs.shape == (1, 8)
    assert batch.weights.tolist() == [1.0] + [0.0] * 7


def test_a_batch_without_rows_weighs_nothing() -> None:
    batch = assemble(rows_of([4]), [], weight=1.0, multiple=1)
    assert batch.weights.sum() == 0


@given(LENGTHS, st.integers(1, 5))
@settings(max_examples=50)
def test_every_target_token_of_an_update_counts_the_same(lengths: list[int], batches: int) -> None:
    source = rows_of(lengths)
    rows = np.arange(len(lengths))
    found = list(batches_of_update(source, rows, batches, 1))
    assert len(found) == batches
    targets = sum(batch.target_tokens for batch in found)
    assert targets == source.targets.sum()
    weights = {float(w) for batch in found for w in batch.weights if w}
    # mlx-lm divides the sum over the batches by their number.
    assert [w / batches for w in weights] == [pytest.approx(1 / targets)]


def test_scoring_takes_every_row_once() -> None:
    source = rows_of([9, 2, 1500, 900, 30, 40])
    batches = list(batches_for_scoring(source, 1))
    assert sorted(line for batch in batches for line in batch.rows) == list(range(6))
    assert all(batch.inputs.size <= 2048 or len(batch.rows) == 1 for batch in batches)


def test_rows_without_their_common_beginning_have_the_same_targets() -> None:
    rows = TokenRows.from_examples([Example([1, 2, 3, 4, 9], 4), Example([1, 2, 5, 6, 7, 8], 4)])
    assert shared_tokens([rows]) == 2
    rest = rows.without_prefix(2)
    assert [list(rest[row]) for row in range(2)] == [[3, 4, 9], [5, 6, 7, 8]]
    assert (rest.prompts.tolist(), rest.targets.tolist()) == ([2, 2], rows.targets.tolist())


def test_a_row_keeps_one_token_of_its_prompt() -> None:
    same = TokenRows.from_examples([Example([1, 2, 3, 4], 3), Example([1, 2, 3, 5], 3)])
    assert shared_tokens([same]) == 2
    assert shared_tokens([rows_of([])]) == 0
