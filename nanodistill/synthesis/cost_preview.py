"""What a run is about to reuse, ask and spend, and how long the wanted rows will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import anyio

from nanodistill.engine.teacher import CostSurvey
from nanodistill.engine.usage import UsageStats
from nanodistill.events import ROWS, Notice, Progress, Value
from nanodistill.formatting import dollars
from nanodistill.synthesis.answer_stage import AnswerStage
from nanodistill.synthesis.generation import GenerationCall
from nanodistill.synthesis.recheck import rechecked_share
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Request, Trace

LOOKED_AT = 4
"""Rounds, the last ones: what the journal answered is over in no time, and then it isn't."""


class ProgressForecast:
    """Goes by the rounds completed last. Times are of `clock`, in seconds."""

    def __init__(
        self,
        wanted: int,
        account: UsageStats,
        clock: Callable[[], float] = anyio.current_time,
        *,
        seeds: int = 0,
    ) -> None:
        self._wanted = wanted
        self._seeds = seeds
        self._account = account
        self._clock = clock
        self._seen: deque[tuple[float, float, int, float]] = deque(maxlen=LOOKED_AT)

    def progress(self, filled: int, ahead: float = 0.0) -> Progress:
        """Rows kept of those wanted, seeds among both, with time left and dollars in all.

        `ahead` are rows that are paid for and not read yet, as far as is known.
        """
        paid = min(filled + ahead, self._wanted)
        self._seen.append((self._clock(), self._account.cost_usd, filled, paid))
        (began, spent, before, paid_before), (now, cost, _, _) = self._seen[0], self._seen[-1]
        new, left = filled - before, self._wanted - filled
        rows = Progress(ROWS, self._seeds + filled, self._seeds + self._wanted, "kept")
        if not new or not left:
            return rows
        figures: dict[str, Value] = {}
        if self._account.known_cost is not None and cost > spent and paid > paid_before:
            each = (cost - spent) / (paid - paid_before)
            figures["estimated total"] = dollars(cost + each * (self._wanted - paid))
        seconds = (now - began) / new * left
        return replace(rows, seconds_left=seconds, figures=figures)


EXAMPLES = 8
IN_NO_JOURNAL = -1
"""An ordinal that no call has: what is surveyed under it is taken as still to be asked."""


@dataclass(frozen=True)
class CostForecast:
    """About what all rows take, calls of earlier sessions included.

    `cost_usd` is None where no price is known.
    """

    calls: int
    cost_usd: float | None


async def forecast_costs(
    calls: Sequence[GenerationCall],
    survey: CostSurvey,
    wanted: int,
    answering: AnswerStage,
    teacher: TeacherProtocol,
) -> CostForecast:
    """What `wanted` rows will take if each is good, by what `calls` of the first round take.

    What follows a new input (answers, checks, the judge) is reckoned by the seeds.
    """
    share = wanted / sum(len(call.slots) for call in calls)
    generation = ceil(len(calls) * share)
    total = CostForecast(generation, _each(survey, generation))
    for times, requests in _that_follow(answering):
        number = ceil(times * wanted)
        unknown = [replace(each, ordinal=IN_NO_JOURNAL) for each in requests]
        cost = _each(await teacher.survey(unknown), number)
        total = CostForecast(total.calls + number, _sum(total.cost_usd, cost))
    return total


def announce_costs(survey: CostSurvey, calls: int, whole: CostForecast) -> Notice:
    """What the first round, of so many `calls`, is about to reuse and ask; and what all take."""
    if not survey.to_ask:
        return Notice(f"All {survey.reused} calls of the first round are in the journal.")
    kept = f"{survey.reused} calls kept, " if survey.reused else ""
    asked = f"First round of generation: {kept}{survey.to_ask} to ask{_price(survey.cost_usd)}."
    if whole.calls <= calls:
        return Notice(asked)
    return Notice(f"{asked} All rows: about {whole.calls:,} calls{_price(whole.cost_usd)}.")


def _price(cost: float | None) -> str:
    return ", no price known" if cost is None else f", about {dollars(cost)}" if cost else ""


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _each(survey: CostSurvey, number: int) -> float | None:
    """Dollars of so many calls like the surveyed ones."""
    if survey.cost_usd is None:
        return None
    return survey.cost_usd / survey.to_ask * number if survey.to_ask else 0.0


def _that_follow(answering: AnswerStage) -> Iterator[tuple[float, list[Request]]]:
    """The calls that each new input leads to: how many, and some like them."""
    task, requester = answering.task, answering.requester
    seeds = task.seeds[:EXAMPLES]
    texts = [seed.input for seed in seeds]
    if task.asks_answers:
        # Under the name of the blind check, whose answers are of the same form and known by now.
        yield (
            requester.samples,
            [replace(each, stage="blind") for each in requester.requests(texts)],
        )
    if share := rechecked_share(task):
        rows = [Trace(seed.input, seed.output, "seed") for seed in seeds]
        yield share, answering.recheck_requests(rows)
    if answering.judge is not None:
        rows = [Trace(seed.input, seed.output, "seed") for seed in seeds]
        yield 1, list(answering.judge.requests(rows))
