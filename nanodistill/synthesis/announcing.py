"""What a run is about to reuse, ask and spend: said before it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from nanodistill.events import Notice
from nanodistill.records import Request, Trace
from nanodistill.synthesis.answering import Answering
from nanodistill.synthesis.generation import Call
from nanodistill.synthesis.teaching import Teaching
from nanodistill.teacher.engine import Survey

EXAMPLES = 8
IN_NO_JOURNAL = -1
"""An ordinal that no call has: what is surveyed under it is taken as still to be asked."""


@dataclass(frozen=True)
class Outlook:
    """About what all rows take, calls of earlier sessions included.

    `cost_usd` is None where no price is known.
    """

    calls: int
    cost_usd: float | None


async def outlook(
    calls: Sequence[Call], survey: Survey, wanted: int, answering: Answering, teacher: Teaching
) -> Outlook:
    """What `wanted` rows will take if each is good, by what `calls` of the first round take.

    What follows a new input (answers, checks, the judge) is reckoned by the seeds.
    """
    share = wanted / sum(len(call.slots) for call in calls)
    generation = ceil(len(calls) * share)
    total = Outlook(generation, _each(survey, generation))
    for times, requests in _that_follow(answering):
        number = times * wanted
        unknown = [replace(each, ordinal=IN_NO_JOURNAL) for each in requests]
        cost = _each(await teacher.survey(unknown), number)
        total = Outlook(total.calls + number, _sum(total.cost_usd, cost))
    return total


def announced(survey: Survey, calls: int, whole: Outlook) -> Notice:
    """What the first round, of so many `calls`, is about to reuse and ask; and what all take."""
    if not survey.to_ask:
        return Notice(f"All {survey.reused} calls of the first round are in the journal.")
    kept = f"{survey.reused} calls kept, " if survey.reused else ""
    asked = f"First round of generation: {kept}{survey.to_ask} to ask{_price(survey.cost_usd)}."
    if whole.calls <= calls:
        return Notice(asked)
    return Notice(f"{asked} All rows: about {whole.calls:,} calls{_price(whole.cost_usd)}.")


def _price(cost: float | None) -> str:
    return ", no price known" if cost is None else f", about ${cost:.2f}" if cost else ""


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _each(survey: Survey, number: int) -> float | None:
    """Dollars of so many calls like the surveyed ones."""
    if survey.cost_usd is None:
        return None
    return survey.cost_usd / survey.to_ask * number if survey.to_ask else 0.0


def _that_follow(answering: Answering) -> Iterator[tuple[int, list[Request]]]:
    """The calls that each new input leads to: how many, and some like them."""
    task, asker = answering.task, answering.asker
    seeds = task.seeds[:EXAMPLES]
    texts = [seed.input for seed in seeds]
    if task.asks_answers:
        # Under the name of the blind check, whose answers are of the same form and known by now.
        yield asker.samples, [replace(each, stage="blind") for each in asker.requests(texts)]
    elif task.config.check_labels and task.labels:
        yield 1, list(asker.check_requests(texts))
    if answering.judge is not None:
        rows = [Trace(seed.input, seed.output, "seed") for seed in seeds]
        yield 1, list(answering.judge.requests(rows))
