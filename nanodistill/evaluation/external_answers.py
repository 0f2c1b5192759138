"""Answers that were not generated here: a teacher's, bought by the synthesis half."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nanodistill.evaluation.eval_set import EvalSet


@dataclass(frozen=True, slots=True)
class ExternalAnswer:
    """Somebody's answer to the row with this id; `output` is None where there is none."""

    id: str
    output: str | None
    text: str | None = None
    thinking: str | None = None
    cost_usd: float | None = None


Answerer = Callable[[EvalSet], Iterable[ExternalAnswer]]
"""Gets somebody's answers to the rows that are judged by, when everything else is found to fit."""


def usd_per_1000(answers: Iterable[ExternalAnswer]) -> float | None:
    """What 1,000 such answers cost; None unless the cost of each is known."""
    costs = [answer.cost_usd for answer in answers]
    known = [cost for cost in costs if cost is not None]
    return 1000 * sum(known) / len(known) if known and len(known) == len(costs) else None
