"""Cells of the coverage plan: every wanted row has a place in the plan before it has a text.

A cell is one value on each axis that applies (label, topic, difficulty, length, persona, ...).
Cells come in an endless sequence of which a run takes the first n. At every length the counts
follow the weights, on each axis alone and along the axes together. So a preview is the beginning
of the whole run, and a longer run continues a shorter one and asks nothing twice.

The next value on an axis is the one furthest behind its share, counted over all rows, within each
part of the answer chosen before it, and within all values chosen before it. So no axis can come to
predict the answer. A hash breaks ties, so two axes never run in step.

An axis may depend on axes before it: a label has topics of its own, only boundary rows have a
neighbour. Where an axis has no values it does not apply, and the cell lacks it.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from nanodistill.synthesis.task import Task

LABEL, OUTPUT = "label", "output"
NO_HINTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Axis:
    """One way in which rows differ.

    Attributes:
        weights: values and their relative frequency, where no table says otherwise.
        hints: what a value means, as prompts say it; the value itself where there is none.
        depends_on: axes before this one whose values choose the weights.
        tables: weights by the values of `depends_on`. An empty table: does not apply there.
    """

    name: str
    weights: Mapping[str, float]
    hints: Mapping[str, str] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    tables: Mapping[tuple[str, ...], Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[str] | Mapping[str, float],
        hints: Mapping[str, str] = NO_HINTS,
    ) -> Axis:
        weights = values if isinstance(values, Mapping) else dict.fromkeys(values, 1.0)
        return cls(name, weights, hints)

    @functools.cached_property
    def shares(self) -> Mapping[str, float]:
        return _shares(self.weights)

    @functools.cached_property
    def _tables(self) -> Mapping[tuple[str, ...], Mapping[str, float]]:
        return {key: _shares(weights) for key, weights in self.tables.items()}

    @functools.cached_property
    def is_owned(self) -> bool:
        """Whether an answer has values of its own on this axis, as a label has topics."""
        return bool(self.tables) and any(map(is_answer, self.depends_on))

    def shares_at(self, path: Sequence[tuple[str, str]]) -> Mapping[str, float]:
        """The shares that hold after `path`."""
        values = dict(path)
        key = tuple(values.get(name, "") for name in self.depends_on)
        return self._tables.get(key, self.shares)

    def says(self, value: str) -> str:
        return self.hints.get(value, value)


def is_answer(axis: str) -> bool:
    """Whether an axis plans a part of the answer: the label, or a field of the output."""
    return axis == LABEL or axis.split(".")[0] == OUTPUT


def _shares(weights: Mapping[str, float]) -> Mapping[str, float]:
    total = sum(weights.values())
    return {value: weight / total for value, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in the plan: axis and value pairs, in the order of the axes."""

    values: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return "; ".join(f"{axis}={value}" for axis, value in self.values)

    @property
    def label(self) -> str | None:
        return self.get(LABEL)

    def get(self, axis: str) -> str | None:
        return dict(self.values).get(axis)

    def besides_label(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self.values if pair[0] != LABEL)


@dataclass(frozen=True, slots=True)
class Slot:
    """A row that is wanted. `rejected` says what was wrong with earlier attempts at it."""

    number: int
    cell: Cell
    rejected: tuple[str, ...] = ()

    def rejected_for(self, reason: str | None) -> Slot:
        """The slot for another attempt; `reason` is what was wrong with this one, if known."""
        return replace(self, rejected=(reason,)) if reason else self


def iter_cells(axes: Sequence[Axis], *, seed: int, taken: Mapping[str, int]) -> Iterator[Cell]:
    """Cells without end.

    Args:
        taken: rows that exist already, by their value on the first axis (the seeds' labels);
            the sequence makes up for them.
    """
    overall: dict[tuple[str, tuple[str, ...]], Counter[str]] = {}
    by_answer: dict[tuple[str, tuple[str, ...], tuple[str, str]], Counter[str]] = {}
    within: dict[tuple[tuple[str, str], ...], Counter[str]] = {}
    if axes:
        overall[axes[0].name, tuple(axes[0].shares)] = Counter(taken)
        within[()] = Counter(taken)
    number = 0
    while True:
        path: tuple[tuple[str, str], ...] = ()
        for axis in axes:
            shares = axis.shares_at(path)
            if not shares:
                continue
            # Tables with the same values are counted as one: a topic of plain rows is due later
            # among middling ones.
            counts = overall.setdefault((axis.name, tuple(shares)), Counter())
            here = within.setdefault(path, Counter())
            # An axis that belongs to an answer can't be balanced against it.
            answers = [
                by_answer.setdefault((axis.name, tuple(shares), pair), Counter())
                for pair in path
                if is_answer(pair[0]) and not axis.is_owned
            ]
            behind = _behind(shares, counts, here, *answers)
            furthest = max(behind.values())
            tied = [name for name, lack in behind.items() if lack == furthest]
            value = min(tied, key=lambda name: _drawn(seed, axis.name, number, name))
            for counter in (counts, here, *answers):
                counter[value] += 1
            path += ((axis.name, value),)
        yield Cell(path)
        number += 1


def _behind(shares: Mapping[str, float], *counted: Counter[str]) -> dict[str, float]:
    """How many rows each value lacks to its share, if one more row is dealt, over all counts."""
    rows = sum(counts.total() + 1 for counts in counted)
    return {
        value: round(rows * share - sum(counts[value] for counts in counted), 9)
        for value, share in shares.items()
    }


def _drawn(*of: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, of)).encode(), digest_size=8).digest()


def iter_slots(axes: Sequence[Axis], task: Task) -> Iterator[Slot]:
    """Slots without end. Labels make up for what the seeds have of them."""
    labels = [task.label_of(seed) for seed in task.seeds]
    planned = axes[0].weights if task.plans_labels else {}
    taken = Counter(label for label in labels if label is not None and label in planned)
    cells = iter_cells(axes, seed=task.config.random_seed, taken=taken)
    return (Slot(number, cell) for number, cell in zip(count(), cells, strict=False))
