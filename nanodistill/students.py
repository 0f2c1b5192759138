"""One dataset, several students: the same stage for each, side by side.

A variant is the run's configuration with another `student` or `train_on`. Each has its own training
run in the run's folder, and all are scored on the same rows of the same dataset version.
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
    """The configuration for each student and each `train_on`, by a name that tells them apart.

    Without students and `train_on` that is `config` alone. Duplicates are dropped.
    """
    variants: dict[str, DistillationConfig] = {}
    for student, target in product(students or [config.student], train_on or [config.train_on]):
        words = [student] * bool(students) + [f"trained on {target}"] * bool(train_on)
        changed: dict[str, Any] = {"student": student, "train_on": target}
        same = all(value == vars(config)[name] for name, value in changed.items())
        name = ", ".join(words) or config.student
        variants[name] = config if same else config.model_copy(update=changed)
    return variants


def iterate_students(
    variants: Mapping[str, DistillationConfig], on_event: Listener
) -> Iterator[tuple[str, DistillationConfig]]:
    """Yield the variants in order; if there are several, announce each."""
    for number, (name, config) in enumerate(variants.items(), 1):
        if len(variants) > 1:
            on_event(Notice(f"student {number} of {len(variants)}: {name}"))
        yield name, config


def students_table(results: Mapping[str, EvaluationResult]) -> Table:
    """The students by score, the best first, each beside its base model."""
    ranked = sorted(results.items(), key=lambda item: -item[1].models["student"].score.value)
    first = ranked[0][1]
    rows = []
    for name, result in ranked:
        student, base = (result.models[model].score for model in ("student", "base"))
        rows.append(
            (
                name,
                f"{points(student.value)}%",
                f"{points(student.low)} to {points(student.high)}",
                f"{points(base.value)}%",
                describe_comparison(result.paired),
            )
        )
    columns = ("student", first.measure, "95%", "base", "vs. base")
    return Table(f"Students on the same {first.n} {first.subject.split} rows", columns, tuple(rows))
