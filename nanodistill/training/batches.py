"""Which rows go into which update, in what order, and in what shape.

The unit is the update, not the batch. Each epoch deals the rows out anew, into
updates of `rows_per_update` rows of similar length; the last takes what is
left, so every row is trained once in every epoch and a set smaller than a batch
is an update by itself. The deal is a function of seed and epoch alone: going on
at update k needs nothing but k. An update's rows are cut into as many batches
as gradients are accumulated over, so half the batch and twice the accumulation
train the same updates on the same rows.

Similar length costs freedom. Rows are shuffled, then sorted by length within
windows of the shuffled order; `fit_window` takes the smallest window that keeps
padding under `PADDING_GOAL`, so that the order is as free as padding allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nanodistill.training.tokenize import TokenRows

PADDING_GOAL = 0.04
WINDOWS = (4, 8, 16, 32, 64, 128)
"""Sizes of window tried, in updates."""

PLACES = 2048
"""Places of a batch that needs no gradient."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """How rows of these lengths are dealt out. `window` is in rows; at least one update's."""

    lengths: NDArray[np.int64]
    rows_per_update: int
    window: int
    seed: int

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.rows_per_update)

    def rows_of(self, update: int) -> Rows:
        """The rows of update number `update`, counted from 0 through all epochs."""
        epoch, place = divmod(update, self.updates_per_epoch)
        return _epoch(self, epoch)[place]


@lru_cache(maxsize=2)
def _epoch(deal: BatchSampler, epoch: int) -> list[Rows]:
    random = np.random.Generator(np.random.PCG64([deal.seed, epoch]))
    order = random.permutation(len(deal.lengths))
    updates: list[Rows] = []
    for start in range(0, len(order), deal.window):
        window = order[start : start + deal.window]
        by_length = window[np.argsort(deal.lengths[window], kind="stable")]
        updates += _cut(by_length, deal.rows_per_update, random)
    return [updates[place] for place in random.permutation(len(updates))]


def _cut(rows: Rows, size: int, random: np.random.Generator) -> list[Rows]:
    """`rows` in runs of `size`; the short one, if any, at a random place among them."""
    left = len(rows) % size
    if not left:
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    short = int(random.integers(len(rows) // size + 1)) * size
    starts = [*range(0, short + 1, size), *range(short + left, len(rows), size)]
    return [rows[a:b] for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]


def fit_window(
    lengths: NDArray[np.int64], rows_per_update: int, batches: int, multiple: int, seed: int
) -> BatchSampler:
    """The freest deal whose first epoch pads less than `PADDING_GOAL`, else the tightest."""
    full = -(-len(lengths) // rows_per_update)
    for updates in (*(w for w in WINDOWS if w < full), full):
        deal = BatchSampler(lengths, rows_per_update, updates * rows_per_update, seed)
        if padding_share(deal, batches, multiple) < PADDING_GOAL:
            break
    return deal


def padding_share(deal: BatchSampler, batches: int, multiple: int, epoch: int = 0) -> float:
    """The share of padding among all the places of an epoch's batches."""
    places = tokens = 0
    for rows in _epoch(deal, epoch):
        for part in split(rows, deal.lengths, batches):
            if len(part):
                places += len(part) * padded(int(deal.lengths[part].max()), multiple)
                tokens += int(deal.lengths[part].sum())
    return 1 - tokens / places if places else 0.0


def padded(length: int, multiple: int) -> int:
    """The width of a batch whose longest row has `length` tokens."""
    return -(-length // multiple) * multiple


def split(rows: Rows, lengths: NDArray[np.int64], batches: int) -> list[Rows]:
    """An update's rows in `batches` parts of like length and almost equal size, some maybe empty.

    mlx-lm's loop wants the same number of batches in every update.
    """
    by_length = rows[np.argsort(lengths[rows], kind="stable")]
    return list(np.array_split(by_length, batches))


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Rows side by side, and where their targets are.

    `inputs` is rows x width. `where` points into the flat outputs of the model
    on `inputs[:, :-1]`, at the places that predict `targets`; `weights` are the
    targets' shares in the loss, 0 for those that only fill up. `lines` are the
    numbers of its rows.
    """

    inputs: NDArray[np.int32]
    where: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    lines: tuple[int, ...]
    target_tokens: int


def assemble(
    source: TokenRows, rows: Sequence[int] | Rows, *, weight: float, multiple: int
) -> TrainingBatch:
    """The batch of `rows`; none at all give a batch of one place that weighs nothing."""
    width = padded(max((len(source[row]) for row in rows), default=2), multiple)
    inputs = np.zeros((max(1, len(rows)), width), np.int32)
    where: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int32]] = []
    for line, row in enumerate(rows):
        tokens, prompt = source[row], int(source.prompts[row])
        inputs[line, : len(tokens)] = tokens
        where.append(line * (width - 1) + np.arange(prompt - 1, len(tokens) - 1))
        targets.append(tokens[prompt:])
    count = sum(map(len, targets))
    filled = padded(max(1, count), multiple)
    return TrainingBatch(
        inputs=inputs,
        where=_filled(where, filled),
        targets=_filled(targets, filled),
        weights=np.where(np.arange(filled) < count, np.float32(weight), np.float32(0)),
        lines=tuple(int(row) for row in rows),
        target_tokens=count,
    )


def _filled(parts: Sequence[NDArray[np.integer]], size: int) -> NDArray[np.int32]:
    flat = np.zeros(size, np.int32)
    if parts:
        joined = np.concatenate(parts)
        flat[: len(joined)] = joined
    return flat


def batches_of_update(
    source: TokenRows, rows: Rows, batches: int, multiple: int
) -> Iterator[TrainingBatch]:
    """An update's batches, weighted so that every target token counts the same.

    mlx-lm's loop divides the sum of an update's gradients by the number of batches; the weights
    take that back and divide by the update's target tokens in its place.
    """
    weight = batches / int(source.targets[rows].sum())
    for part in split(rows, source.lengths, batches):
        yield assemble(source, part, weight=weight, multiple=multiple)


def batches_for_scoring(source: TokenRows, multiple: int) -> Iterator[TrainingBatch]:
    """All rows once, each target token weighing 1."""
    for group in by_tokens(source, PLACES):
        yield assemble(source, group, weight=1.0, multiple=multiple)


def by_tokens(rows: TokenRows, most: int) -> list[list[int]]:
    """All rows in groups of like length and at most `most` places, or one row each."""
    groups: list[list[int]] = []
    for row in np.argsort(rows.lengths, kind="stable").tolist():
        width = int(rows.lengths[row])
        if groups and (len(groups[-1]) + 1) * width <= most:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
