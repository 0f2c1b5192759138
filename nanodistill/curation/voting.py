"""Whether two answers are the same, and which of several the teacher stands by.

What is the same is said in `values`, for votes as for the evaluation.

Agreement is a share of the samples that were asked for: one that failed or said
nothing agrees with nobody. It is what `confidence` means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.values import Schema, field_schema, same_text, structure_of, value_key


@dataclass(frozen=True, slots=True)
class Vote:
    """Which sample speaks for all, and what share of all samples agrees with it."""

    winner: int
    agreement: float


def same_answer(a: str, b: str, schema: Schema | None = None) -> bool:
    """Whether two answers come down to the same. `schema` is that of JSON answers."""
    return _is_same(structure_of(a.strip()), structure_of(b.strip()), schema)


def _is_same(a: Any, b: Any, schema: Schema | None) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return same_text(a, b)
    return value_key(a, schema) == value_key(b, schema)


def choose(answers: Sequence[str], asked: int, schema: Schema | None = None) -> Vote:
    """The sample to keep of `answers`, of `asked` samples.

    JSON objects are voted on field by field, and the sample that has most of the
    winning fields is kept; other answers are voted on whole. The first wins a tie.
    """
    values = [structure_of(answer.strip()) for answer in answers]
    if all(isinstance(value, dict) for value in values):
        return _by_field(values, asked, schema)
    votes = [sum(_is_same(one, other, schema) for other in values) for one in values]
    return Vote(votes.index(max(votes)), max(votes) / asked)


def _by_field(samples: Sequence[dict[str, Any]], asked: int, schema: Schema | None) -> Vote:
    names = sorted({name for sample in samples for name in sample})
    if not names:
        return Vote(0, len(samples) / asked)
    supports = [0] * len(samples)
    for name in names:
        each = field_schema(schema, name, schema)
        keys = [value_key(sample.get(name), each, schema) for sample in samples]
        supports = [sum(pair) for pair in zip(supports, map(keys.count, keys), strict=True)]
    best = max(supports)
    return Vote(supports.index(best), best / len(names) / asked)
