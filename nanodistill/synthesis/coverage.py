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

The axes of a run, and the slots in the order in which they are wanted.
"""

from __future__ import annotations

import functools
import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from nanodistill.curation.minhash import words_of
from nanodistill.errors import ConfigError, Problem
from nanodistill.synthesis.policy import TaskPolicy
from nanodistill.synthesis.task import Task
from nanodistill.types import Seed

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


@dataclass(frozen=True, slots=True)
class Slot:
    """A row that is wanted."""

    number: int
    cell: Cell


def iter_cells(axes: Sequence[Axis], *, seed: int, taken: Mapping[str, int]) -> Iterator[Cell]:
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


DIFFICULTIES = {
    "easy": "easy: the answer is plain",
    "medium": "medium: it takes a second look",
    "hard": "hard: mixed, indirect or misleading, but with one right answer",
}


def make_axes(task: Task, policy: TaskPolicy) -> list[Axis]:
    """The axes of the plan, the label first: the user's, and where they give none, ours.

    Without coverage there are none, and every call is alike.
    """
    if not task.config.coverage:
        return []
    ours = {axis.name: axis for axis in _found(task, policy)}
    hints = {LABEL: task.label_hints}
    theirs = {
        name: Axis.of(name, values, hints.get(name, NO_HINTS))
        for name, values in task.config.axes.items()
    }
    return sorted((ours | theirs).values(), key=lambda axis: axis.name != LABEL)


def iter_slots(axes: Sequence[Axis], task: Task) -> Iterator[Slot]:
    """Slots without end. Labels make up for what the seeds have of them."""
    labels = [task.label_of(seed) for seed in task.seeds]
    planned = axes[0].weights if task.plans_labels else {}
    taken = Counter(label for label in labels if label is not None and label in planned)
    cells = iter_cells(axes, seed=task.config.random_seed, taken=taken)
    return (Slot(number, cell) for number, cell in zip(count(), cells, strict=False))


def _found(task: Task, policy: TaskPolicy) -> Iterator[Axis]:
    if task.labels:
        yield Axis.of(LABEL, task.labels, task.label_hints)
    if policy.topics:
        yield Axis.of("topic", tuple(dict.fromkeys(policy.topics)))
    if task.config.generation == "structured":
        yield Axis("difficulty", dict.fromkeys(DIFFICULTIES, 1.0), DIFFICULTIES)
        yield length_axis(task.seeds)
    if policy.styles:
        yield Axis.of("style", tuple(dict.fromkeys(policy.styles)))


def length_axis(seeds: Sequence[Seed]) -> Axis:
    """Short, medium and long as the seeds have it."""
    lengths = sorted(len(words_of(seed.input)) for seed in seeds)
    middle = max(1, round(statistics.median(lengths)))
    low, high = max(1, min(lengths[0], middle * 2 // 3)), max(lengths[-1], middle * 3 // 2)
    hints = {
        "short": f"short: about {low} words or fewer",
        "medium": f"medium: about {middle} words",
        "long": f"long: about {high} words or more",
    }
    return Axis("length", dict.fromkeys(hints, 1.0), hints)


def check_plan(task: Task) -> None:
    """See that there can be enough rows, and that the user's axes can be planned with.

    Raises:
        ConfigError: with all that can't.
    """
    labels, problems = task.labels, []
    if task.wanted < task.config.min_rows:
        what = f"is {task.config.min_rows}, and no more than {task.wanted} rows are wanted"
        problems.append(Problem("min_rows", what))
    if task.config.axes and not task.config.coverage:
        problems.append(Problem("axes", "have no effect with coverage = false; leave one of them"))
    for name, values in task.config.axes.items():
        axis = Axis.of(name, values)
        if not axis.weights:
            problems.append(Problem(f"axes.{name}", "has no values"))
        elif min(axis.weights.values()) < 0 or not sum(axis.weights.values()) > 0:
            problems.append(Problem(f"axes.{name}", "has weights that are negative, or all zero"))
        if name == LABEL and not labels:
            what = "weighs labels, but the outputs are open; name the closed set in `labels`"
            problems.append(Problem(f"axes.{name}", what))
        elif name == LABEL and (unknown := set(axis.weights) - set(labels)):
            what = f"has {', '.join(sorted(unknown))}, the labels are {', '.join(labels)}"
            problems.append(Problem(f"axes.{name}", what))
    if problems:
        raise ConfigError("The configuration does not hold:", problems)
