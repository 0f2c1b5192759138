"""Which rows go into which update, in what order, and in what shape.

The unit is the update, not the batch. Each epoch shuffles the rows anew into updates
of `rows_per_update` rows of similar length. The last update takes what is left, so
every row is trained once per epoch, and a dataset smaller than a batch is one update.
The order is a function of seed and epoch alone, so resuming at update k needs nothing
but k. An update's rows are cut into as many batches as gradients are accumulated
over: half the batch size and twice the accumulation train the same updates.

Sorting by length costs randomness. Rows are shuffled, then sorted within windows of
the shuffled order; `fit_window` takes the smallest window that keeps padding below
`PADDING_GOAL`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nanodistill.training.tokenize import TokenRows

# The share of computed tokens that may be padding (docs/measurements.md: the quickstart's 192 rows
# come to 4.1%). Twice as much would spend 8% of the time on it; half as much needs larger windows,
# in which rows of similar length meet again and again.
PADDING_GOAL = 0.04
WINDOWS = (4, 8, 16, 32, 64, 128)  # sizes tried, in updates
# Tokens, padding included, in a batch that needs no gradient (validation, kept outputs). Its
# memory is that of a forward pass; the figure is a choice, not a measurement.
FORWARD_TOKENS = 2048

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """Deals rows of these `lengths` out to updates.

    Attributes:
        lengths: tokens of each row, int64 (rows,).
        window: rows that are sorted by length together, at least one update's.
    """

    lengths: NDArray[np.int64]
    rows_per_update: int
    window: int
    seed: int

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.rows_per_update)

    def rows_of(self, update: int) -> Rows:
        """The rows of an update, counted from 0 through all epochs."""
        epoch, place = divmod(update, self.updates_per_epoch)
        return _epoch(self, epoch)[place]


@lru_cache(maxsize=2)
def _epoch(sampler: BatchSampler, epoch: int) -> list[Rows]:
    """The rows of each update of an epoch."""
    random = np.random.Generator(np.random.PCG64([sampler.seed, epoch]))
    order = random.permutation(len(sampler.lengths))
    size = sampler.rows_per_update
    updates: list[Rows] = []
    for start in range(0, len(order), sampler.window):
        window = order[start : start + sampler.window]
        rows = window[np.argsort(sampler.lengths[window], kind="stable")]
        cuts = [*range(size, len(rows), size)]
        # The short update, if any, comes at a random place, or it would always hold the longest.
        if left := len(rows) % size:
            short = int(random.integers(len(rows) // size + 1)) * size
            cuts = [*range(size, short + 1, size), *range(short + left, len(rows), size)]
        updates += np.split(rows, cuts)
    return [updates[place] for place in random.permutation(len(updates))]


def fit_window(
    lengths: NDArray[np.int64], rows_per_update: int, batches: int, multiple: int, seed: int
) -> BatchSampler:
    """The most random sampler whose first epoch pads less than `PADDING_GOAL`.

    If none does, one window holds all rows.

    Args:
        batches: batches per update.
        multiple: batch widths are padded to a multiple of this.
    """
    full = -(-len(lengths) // rows_per_update)
    for updates in (*(w for w in WINDOWS if w < full), full):
        sampler = BatchSampler(lengths, rows_per_update, updates * rows_per_update, seed)
        if padding_share(sampler, batches, multiple) < PADDING_GOAL:
            break
    return sampler


def padding_share(sampler: BatchSampler, batches: int, multiple: int, epoch: int = 0) -> float:
    """Padding as a share of all tokens in an epoch's batches."""
    padded = tokens = 0
    for rows in _epoch(sampler, epoch):
        for part in split_update(rows, sampler.lengths, batches):
            if len(part):
                padded += len(part) * round_up(int(sampler.lengths[part].max()), multiple)
                tokens += int(sampler.lengths[part].sum())
    return 1 - tokens / padded if padded else 0.0


def round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def split_update(rows: Rows, lengths: NDArray[np.int64], batches: int) -> list[Rows]:
    """An update's rows in `batches` parts of similar length and almost equal size.

    Some parts may be empty, because mlx-lm's loop wants the same number for every update.
    """
    by_length = rows[np.argsort(lengths[rows], kind="stable")]
    return list(np.array_split(by_length, batches))


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Rows side by side, and where their targets are.

    Attributes:
        inputs: int32 (rows, width), padded with 0.
        positions: int32 (targets,); indices into the flattened outputs of the model on
            `inputs[:, :-1]` that predict `targets`.
        targets: int32 (targets,), padded with 0.
        weights: float32 (targets,); each target's factor in the loss, 0 for padding.
        rows: indices of the rows in the split.
        target_tokens: targets without padding.
    """

    inputs: NDArray[np.int32]
    positions: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    rows: tuple[int, ...]
    target_tokens: int


def assemble(
    source: TokenRows, rows: Sequence[int] | Rows, *, weight: float, multiple: int
) -> TrainingBatch:
    """The batch of `rows`. No rows give a batch of one row of padding that weighs nothing."""
    width = round_up(max((len(source[row]) for row in rows), default=2), multiple)
    inputs = np.zeros((max(1, len(rows)), width), np.int32)
    positions: list[NDArray[np.integer]] = []
    targets: list[NDArray[np.integer]] = []
    for line, row in enumerate(rows):
        tokens, prompt = source[row], int(source.prompts[row])
        inputs[line, : len(tokens)] = tokens
        positions.append(line * (width - 1) + np.arange(prompt - 1, len(tokens) - 1))
        targets.append(tokens[prompt:])
    count = sum(map(len, targets))
    size = round_up(max(1, count), multiple)
    return TrainingBatch(
        inputs=inputs,
        positions=_padded(positions, size),
        targets=_padded(targets, size),
        weights=np.where(np.arange(size) < count, np.float32(weight), np.float32(0)),
        rows=tuple(int(row) for row in rows),
        target_tokens=count,
    )


def _padded(parts: Sequence[NDArray[np.integer]], size: int) -> NDArray[np.int32]:
    flat = np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)
    return np.pad(flat, (0, size - len(flat)))


def batches_of_update(
    source: TokenRows, rows: Rows, batches: int, multiple: int
) -> Iterator[TrainingBatch]:
    """An update's batches, weighted so that every target token counts the same.

    mlx-lm's loop divides the sum of an update's gradients by the number of batches. The weights
    undo that and divide by the update's target tokens instead.
    """
    weight = batches / int(source.targets[rows].sum())
    for part in split_update(rows, source.lengths, batches):
        yield assemble(source, part, weight=weight, multiple=multiple)


def batches_for_scoring(source: TokenRows, multiple: int) -> Iterator[TrainingBatch]:
    """All rows once, with a weight of 1 for each target token."""
    for group in group_by_length(source, FORWARD_TOKENS):
        yield assemble(source, group, weight=1.0, multiple=multiple)


def group_by_length(rows: TokenRows, max_tokens: int) -> list[list[int]]:
    """All rows in groups of similar length, of at most `max_tokens` with padding or one row."""
    groups: list[list[int]] = []
    for row in np.argsort(rows.lengths, kind="stable").tolist():
        width = int(rows.lengths[row])
        if groups and (len(groups[-1]) + 1) * width <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
