"""The plan of what to ask for: every row wanted has a cell before it has a text.

A cell is one value on each axis (label, topic, difficulty, length, style). Cells
are dealt in an endless sequence, and a run takes the first n: at every length
the counts follow the weights, on each axis by itself and along the axes
together. So a cell's quota is how often it comes among the first n, a preview
is the beginning of the whole, and a longer run goes on where a shorter one
ended and asks again for nothing.

The next value on an axis is the one that is furthest behind its share, counted
both over everything and within the values already chosen on the axes before;
ties fall by a hash, so that two axes never run in step.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

LABEL = "label"
NO_HINTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Axis:
    """One way in which inputs differ. `hints` say in a prompt what a value means."""

    name: str
    weights: Mapping[str, float]
    hints: Mapping[str, str] = field(default_factory=dict)

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
        total = sum(self.weights.values())
        return {value: weight / total for value, weight in self.weights.items()}

    def says(self, value: str) -> str:
        return self.hints.get(value, value)


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in the plan: axis and value pairs, in the order of the axes."""

    values: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return "; ".join(f"{axis}={value}" for axis, value in self.values)

    @property
    def label(self) -> str | None:
        return dict(self.values).get(LABEL)

    def besides_label(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self.values if pair[0] != LABEL)


def deal(axes: Sequence[Axis], *, seed: int, taken: Mapping[str, int]) -> Iterator[Cell]:
    """Cells without end.

    Args:
        taken: rows that are there already, by their value on the first axis (the
            seeds' labels); the sequence makes up for them.
    """
    overall: dict[str, Counter[str]] = {axis.name: Counter() for axis in axes}
    within: dict[tuple[tuple[str, str], ...], Counter[str]] = {}
    if axes:
        overall[axes[0].name].update(taken)
        within[()] = Counter(taken)
    number = 0
    while True:
        path: tuple[tuple[str, str], ...] = ()
        for axis in axes:
            here = within.setdefault(path, Counter())
            behind = _behind(axis, overall[axis.name], here)
            furthest = max(behind.values())
            tied = [name for name, lack in behind.items() if lack == furthest]
            value = min(tied, key=lambda name: _drawn(seed, axis.name, number, name))
            overall[axis.name][value] += 1
            here[value] += 1
            path += ((axis.name, value),)
        yield Cell(path)
        number += 1


def _behind(axis: Axis, *counted: Counter[str]) -> dict[str, float]:
    """How many rows each value lacks to its share, if one more row is dealt, over all counts."""
    rows = sum(counts.total() + 1 for counts in counted)
    return {
        value: round(rows * share - sum(counts[value] for counts in counted), 9)
        for value, share in axis.shares.items()
    }


def _drawn(*of: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, of)).encode(), digest_size=8).digest()
