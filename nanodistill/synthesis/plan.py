"""The axes of a run, and the slots in the order in which they are wanted."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

from nanodistill.curation.near import words_of
from nanodistill.errors import ConfigError, Problem
from nanodistill.records import Seed
from nanodistill.synthesis.coverage import LABEL, NO_HINTS, Axis, deal
from nanodistill.synthesis.generation import Slot
from nanodistill.synthesis.policy import TaskPolicy
from nanodistill.synthesis.task import Task

DIFFICULTIES = {
    "easy": "easy: the answer is plain",
    "medium": "medium: it takes a second look",
    "hard": "hard: mixed, indirect or misleading, but with one right answer",
}


def axes_of(task: Task, policy: TaskPolicy) -> list[Axis]:
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


def slots_of(axes: Sequence[Axis], task: Task) -> Iterator[Slot]:
    """Slots without end. Labels make up for what the seeds have of them."""
    labels = [task.label_of(seed) for seed in task.seeds]
    planned = axes[0].weights if task.plans_labels else {}
    taken = Counter(label for label in labels if label is not None and label in planned)
    cells = deal(axes, seed=task.config.random_seed, taken=taken)
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
