"""One dataset, many students: the same work for each student that is named, side by side.

A variant is the run's configuration with another `student` or `train_on`. Each
has a training run of its own in the run's folder, so that all are judged by the
same rows of the same dataset version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from nanodistill.config import DistillationConfig
from nanodistill.evaluation.results import describe_comparison
from nanodistill.events import Listener, Notice, Table
from nanodistill.formatting import points

if TYPE_CHECKING:
    from nanodistill.evaluation import EvaluationResult


def expand_variants(
    config: DistillationConfig, students: Sequence[str], train_on: Sequence[str]
) -> dict[str, DistillationConfig]:
    """The configuration for each student and each `train_on`, by what tells it from the others.

    Nothing named is `config` alone. What is named twice is there once.
    """
    made: dict[str, DistillationConfig] = {}
    for student, taught in product(students or [config.student], train_on or [config.train_on]):
        words = [student] * (len(students) > 0) + [f"trained on {taught}"] * (len(train_on) > 0)
        made[", ".join(words) or config.student] = _with_student(config, student, taught)
    return made


def iterate_students(
    made: Mapping[str, DistillationConfig], on_event: Listener
) -> Iterator[tuple[str, DistillationConfig]]:
    """The same in their order, each told when its turn comes, where there are several."""
    for place, (name, config) in enumerate(made.items(), 1):
        if len(made) > 1:
            on_event(Notice(f"{place} of {len(made)} students: {name}"))
        yield name, config


def students_table(results: Mapping[str, EvaluationResult]) -> Table:
    """The students by their score, the best first, and each one's base beside it."""
    ranked = sorted(
        results.items(), key=lambda named: named[1].models["student"].score.value, reverse=True
    )
    first = ranked[0][1]
    columns: tuple[str, ...] = ("student", first.measure, "95%", "its base", "against its base")
    rows = tuple(_comparison_row(name, result) for name, result in ranked)
    return Table(f"Students on the same {first.n} {first.subject.split} rows", columns, rows)


def _with_student(config: DistillationConfig, student: str, train_on: str) -> DistillationConfig:
    changed: dict[str, Any] = {"student": student, "train_on": train_on}
    same = all(value == vars(config)[name] for name, value in changed.items())
    return config if same else config.model_copy(update=changed)


def _comparison_row(name: str, result: EvaluationResult) -> tuple[str, ...]:
    student, base = (result.models[model].score for model in ("student", "base"))
    return (
        name,
        f"{points(student.value)}%",
        f"{points(student.low)} to {points(student.high)}",
        f"{points(base.value)}%",
        describe_comparison(result.paired),
    )
