"""What a run would ask and cost, without asking.

The run is rehearsed on what the journal holds: the stages run as they are, and their teacher
answers from the journal alone. At the first call that would have to be made it stops, and the rest
is counted from the plan. The fewest calls are those needed if every row is good; the most allow
for losing every third. Tokens of a call are the average of the stage's calls so far, and before
there are any, those of a call like it. So calls, dollars and minutes come as ranges, and an
unknown price is said to be unknown.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from anyio import to_thread

from nanodistill.config import DistillationConfig
from nanodistill.engine.response_index import FailedRequest
from nanodistill.engine.response_validation import Answer, Failure
from nanodistill.engine.teacher import JUDGE, CostSurvey
from nanodistill.engine.usage import UsageStats
from nanodistill.events import Listener, ignore
from nanodistill.journal import UsageTotals
from nanodistill.providers.base import Provider
from nanodistill.providers.prices import Price, batch_price_of, price_of
from nanodistill.run_dir import RunFolder
from nanodistill.synthesis.axes import check_plan
from nanodistill.synthesis.coverage import iter_slots
from nanodistill.synthesis.earlier_release import finished_version
from nanodistill.synthesis.generation import CallPlanner, GenerationCall, RecentInputs
from nanodistill.synthesis.generation_prompt import PromptBuilder, as_text
from nanodistill.synthesis.ledger import Ledger, RowSpool
from nanodistill.synthesis.pipeline import ask
from nanodistill.synthesis.policy import TaskPolicy, derived_policy, policy_messages, read_policy
from nanodistill.synthesis.recheck import rechecked_share
from nanodistill.synthesis.synthesis_context import SynthesisContext, open_context
from nanodistill.synthesis.task import Task, load_task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Message, Request, Usage


class TeacherCallError(Exception):
    """A call would have to be made: of which stage, and what is in the journal of its batch."""

    def __init__(self, stage: str, survey: CostSurvey) -> None:
        super().__init__(stage)
        self.stage = stage
        self.survey = survey


class DryRunTeacher:
    """A teacher that answers from the journal alone, and counts calls by stage.

    `reused` are those that it answered, `unread` those of them that nobody has read yet, and
    `to_ask` those of the batches at which it could not go on.
    """

    def __init__(self, teacher: TeacherProtocol) -> None:
        self._teacher = teacher
        self.reused: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.to_ask: Counter[str] = Counter()

    @property
    def account(self) -> UsageStats:
        return self._teacher.account

    @property
    def lost(self) -> Mapping[str, FailedRequest]:
        return self._teacher.lost

    def request(
        self,
        stage: str,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        ordinal: int = 0,
    ) -> Request:
        return self._teacher.request(stage, messages, schema=schema, params=params, ordinal=ordinal)

    async def complete_all(self, requests: Iterable[Request]) -> None:
        """Go on if the journal has them all.

        Raises:
            CurtainFalls: it has not.
        """
        first = next(iter(requests), None)
        if first is None:
            return
        survey = await self._teacher.survey(requests)
        self.reused[first.stage] += survey.reused
        self.unread[first.stage] += survey.reused
        self.to_ask[first.stage] += survey.to_ask
        if survey.to_ask:
            raise TeacherCallError(first.stage, survey)

    def results(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        for outcome in self._teacher.results(requests):
            self.unread[outcome.request.stage] -= 1
            yield outcome

    async def survey(self, requests: Iterable[Request]) -> CostSurvey:
        return await self._teacher.survey(requests)


STAGES_OF_ROWS = ("trace", "check", "recheck", "compare", "judge")
"""Stages that a row goes through once it is written, in order."""
LOSSES = 1.5
TOKENS_PER_SECOND = 60.0
TOKENS_PER_SECOND_HERE = 50.0
SECONDS_BEFORE_FIRST_TOKEN = 1.0
USUALLY_AT_ONCE = 32


@dataclass(frozen=True)
class StageEstimate:
    """Calls of one stage: answered in the journal, and those to ask, at least and at most.

    `each` are the tokens of one call.
    """

    stage: str
    reused: int
    fewest: int
    most: int
    each: Usage

    def usage(self, calls: int) -> Usage:
        return Usage(self.each.prompt_tokens * calls, self.each.completion_tokens * calls)


@dataclass(frozen=True)
class PlanEstimate:
    """What `nanodistill plan` shows. Dollars are None where no price is known.

    `batch_cost_usd` is what the same calls cost at the provider's batch endpoint.
    """

    wanted: int
    kept: int
    stages: tuple[StageEstimate, ...]
    cost_usd: tuple[float, float] | None
    minutes: tuple[float, float]
    prompts: tuple[str, ...] = ()
    batch_cost_usd: tuple[float, float] | None = None

    @property
    def calls(self) -> tuple[int, int]:
        return sum(stage.fewest for stage in self.stages), sum(stage.most for stage in self.stages)

    @property
    def reused(self) -> int:
        return sum(stage.reused for stage in self.stages)

    @property
    def usage(self) -> tuple[Usage, Usage]:
        fewest = sum((stage.usage(stage.fewest) for stage in self.stages), Usage())
        return fewest, sum((stage.usage(stage.most) for stage in self.stages), Usage())

    def to_json(self) -> dict[str, Any]:
        return {
            "wanted": self.wanted,
            "kept": self.kept,
            "calls": {**_low_high(self.calls), "reused": self.reused},
            "stages": {
                stage.stage: {**_low_high((stage.fewest, stage.most)), "reused": stage.reused}
                for stage in self.stages
            },
            "usage": {
                "prompt_tokens": _low_high([usage.prompt_tokens for usage in self.usage]),
                "completion_tokens": _low_high([usage.completion_tokens for usage in self.usage]),
            },
            "cost_usd": self.cost_usd and _low_high(self.cost_usd),
            "batch_cost_usd": self.batch_cost_usd and _low_high(self.batch_cost_usd),
            "minutes": _low_high(self.minutes),
            **({"prompts": list(self.prompts)} if self.prompts else {}),
        }

    def summary(self) -> str:
        if not self.calls[1]:
            return f"Nothing to ask: all {self.reused} calls are in the journal."
        tokens = [usage.total_tokens for usage in self.usage]
        lines = [
            f"{self.wanted} rows wanted, seeds among them; {self.kept} kept already.",
            f"Calls to ask: {_range(*self.calls)}; in the journal: {self.reused}.",
            *(
                f"  {stage.stage}: {_range(stage.fewest, stage.most)}"
                + (f", {stage.reused} in the journal" if stage.reused else "")
                for stage in self.stages
            ),
            f"Tokens: about {_range(*tokens)}.",
            self._dollars(),
            f"Time: about {_range(*map(ceil, self.minutes))} minutes, by a usual speed.",
        ]
        return "\n".join([*self._prompts(), *lines])

    def _prompts(self) -> Iterator[str]:
        for number, prompt in enumerate(self.prompts, start=1):
            yield f"Prompt {number} of {len(self.prompts)}\n{'-' * 72}\n{prompt}\n"

    def _dollars(self) -> str:
        if self.cost_usd is None:
            return (
                "Dollars: unknown, there is no price for this teacher or judge; set teacher_price "
                "or judge_price."
            )
        if not self.cost_usd[1]:
            return "Dollars: none."
        return f"Dollars: about {self.cost_usd[0]:.2f} to {self.cost_usd[1]:.2f}."


async def plan(
    config: DistillationConfig,
    *,
    provider: Provider | None = None,
    on_event: Listener = ignore,
    prompts: int = 0,
) -> PlanEstimate:
    """What `synthesize` would do with the same configuration. Nothing is asked or written.

    Args:
        prompts: how many of the prompts to include, as they would be sent.

    Raises:
        InputError: as `synthesize` does.
    """
    task = await to_thread.run_sync(load_task, config, on_event)
    check_plan(task)
    if config.training_data is not None:
        return _nothing_to_ask(task)
    run = RunFolder(config.run_folder)
    if await to_thread.run_sync(finished_version, run, task) is not None:
        return _nothing_to_ask(task)
    shown = await to_thread.run_sync(first_prompts, run, task, prompts)
    with RowSpool() as kept, RowSpool() as rejected:
        ledger = Ledger(kept, rejected)
        async with _rehearsing(task, provider) as (bench, rehearsal):
            met: TeacherCallError | None = None
            try:
                await ask(bench, ledger, None)
            except TeacherCallError as curtain:
                met = curtain
            left = RemainingWork(bench, rehearsal, ledger, met)
            stages = tuple([stage async for stage in left.stages()])
        kept_rows = left.rows_kept
    return replace(await to_thread.run_sync(_summed, task, kept_rows, stages), prompts=shown)


@asynccontextmanager
async def _rehearsing(
    task: Task, provider: Provider | None
) -> AsyncIterator[tuple[SynthesisContext, DryRunTeacher]]:
    """A bench whose teacher only rehearses, over the run's journal or an empty one."""
    run = RunFolder(task.config.run_folder)
    with tempfile.TemporaryDirectory() as folder:
        is_new = not run.journal.exists()
        at = RunFolder(Path(folder)) if is_new else run
        opening = open_context(
            task, at, ignore, provider=provider, read_only=not is_new, plans=True
        )
        async with opening as bench:
            rehearsal = DryRunTeacher(bench.teacher)
            judge = bench.judge and replace(bench.judge, teacher=rehearsal)
            yield (
                replace(bench, teacher=rehearsal, judge=judge, writes=False, run=run),
                rehearsal,
            )


@dataclass(frozen=True)
class RemainingWork:
    """What is left to ask after a rehearsal that ended at `met`."""

    bench: SynthesisContext
    rehearsal: DryRunTeacher
    ledger: Ledger
    met: TeacherCallError | None

    @property
    def _is_at_seeds(self) -> bool:
        return self.met is not None and self.met.stage in ("blind", "rationalize", "policy")

    @property
    def rows_kept(self) -> int:
        """Rows that are kept already; the seeds are, before they have been looked at."""
        return len(self.bench.task.seeds) if self._is_at_seeds else len(self.ledger.kept)

    async def stages(self) -> AsyncIterator[StageEstimate]:
        sums = await to_thread.run_sync(self.bench.journal.sums)
        for stage, fewest, most in self._counts():
            reused = self.rehearsal.reused[stage]
            if most or reused:
                each = await self._each(stage, sums.get(stage))
                yield StageEstimate(stage, reused, fewest, most, each)

    def _counts(self) -> Iterator[tuple[str, int, int]]:
        """Each stage with the fewest and the most calls that it has left, in order."""
        task = self.bench.task
        at_seeds = self._is_at_seeds
        yield "blind", self._at("blind"), self._at("blind")
        explained = self._at("rationalize")
        yield "rationalize", explained, len(task.seeds) if at_seeds and task.thinks else explained
        policy = int(at_seeds and task.config.extract_policy)
        yield "policy", policy, policy
        rows = max(0, task.wanted - self.rows_kept) if self.met else 0
        yield from self._for_rows(task, rows)

    def _for_rows(self, task: Task, rows: int) -> Iterator[tuple[str, int, int]]:
        """The stages that every new row goes through."""
        under_way = 0
        if self.met is not None and self.met.stage in STAGES_OF_ROWS:
            total = self.met.survey.reused + self.met.survey.to_ask
            calls_per_row = {
                "trace": task.config.samples_per_input,
                "check": rechecked_share(task) or 1.0,
                "recheck": rechecked_share(task) or 1.0,
            }
            under_way = round(total / calls_per_row.get(self.met.stage, 1.0))
        to_write = max(0, rows - under_way)
        calls = ceil(to_write / task.rows_per_call) - self._unread("generate")
        calls = max(self._at("generate"), calls)
        yield "generate", calls, ceil(calls * LOSSES)
        samples = float(task.config.samples_per_input if task.asks_answers else 0)
        judged = float(self.bench.judge is not None)
        second = "check" if task.labels else "recheck"
        shares = (("trace", samples), (second, rechecked_share(task)), ("judge", judged))
        for stage, per_row in shares:
            fewest = ceil(to_write * per_row) + self._at(stage)
            if under_way and self.met is not None and _comes_after(stage, self.met.stage):
                fewest += ceil(under_way * per_row)
            yield stage, fewest, ceil(fewest * LOSSES)

    def _at(self, stage: str) -> int:
        """What is to be asked of the batches at which the rehearsal could not go on."""
        return self.rehearsal.to_ask[stage]

    def _unread(self, stage: str) -> int:
        """Calls that the journal has answered, whose rows are not known yet."""
        return max(0, self.rehearsal.unread[stage])

    async def _each(self, stage: str, sums: UsageTotals | None) -> Usage:
        """Tokens of one call: as they were so far, or of a call like it."""
        if sums is not None and sums.answered and sums.usage.total_tokens:
            usage = sums.usage
            return Usage(
                usage.prompt_tokens // sums.answered, usage.completion_tokens // sums.answered
            )
        if self.met is not None and self.met.stage == stage:
            survey = self.met.survey
        else:
            survey = await self.bench.teacher.survey(self._like(stage))
        calls = max(1, survey.to_ask)
        return Usage(survey.usage.prompt_tokens // calls, survey.usage.completion_tokens // calls)

    def _like(self, stage: str) -> list[Request]:
        """Some calls of a stage, made of the seeds."""
        task, requester = self.bench.task, self.bench.requester
        texts = [seed.input for seed in task.seeds[:8]]
        match stage:
            case "generate":
                writer, calls = first_calls(task, derived_policy(task), 20)
                return [writer.request(call, self.bench.teacher) for call in calls]
            case "check":
                return list(requester.check_requests(texts))
            case "recheck":
                return list(requester.second_requests(texts))
            case "blind":
                return list(requester.blind_requests(texts))
            case _:
                return list(requester.requests(texts))


def first_prompts(run: RunFolder, task: Task, number: int) -> tuple[str, ...]:
    """The first generation prompts of a run, as they would be sent. Blocks.

    The policy is the one in the run folder. Before there is one, the call that extracts it comes
    first, and the others lack what it will add.
    """
    if not number:
        return ()
    stored = read_policy(run.policy)
    policy = stored.policy if stored is not None else derived_policy(task)
    prompts = []
    if stored is None and task.config.extract_policy:
        prompts.append(as_text(policy_messages(task)))
    rows = number * task.rows_per_call * max(1, len(task.labels))
    writer, calls = first_calls(task, policy, rows)
    prompts += [as_text(writer.messages(call)) for call in calls]
    return tuple(prompts[:number])


def first_calls(
    task: Task, policy: TaskPolicy, rows: int
) -> tuple[PromptBuilder, list[GenerationCall]]:
    """The first generation calls of a run under `policy`, for so many rows."""
    writer = PromptBuilder.of(task, policy)
    axes = list(writer.axes.values())
    slots = list(islice(iter_slots(axes, task), rows))
    return writer, CallPlanner(task, RecentInputs(), axes).calls(slots)


def _comes_after(stage: str, other: str) -> bool:
    return STAGES_OF_ROWS.index(stage) > STAGES_OF_ROWS.index(other)


Prices = tuple[Price | None, Price | None]


def _prices(config: DistillationConfig, *, in_batches: bool = False) -> Prices:
    """The teacher's price, and the judge's."""
    price = batch_price_of if in_batches else price_of
    teacher = price(config.teacher, config.teacher_price)
    if config.judge in (None, config.teacher):
        return teacher, teacher
    return teacher, price(config.judge, config.judge_price)


def _nothing_to_ask(task: Task) -> PlanEstimate:
    nothing = (0.0, 0.0)
    return PlanEstimate(task.wanted, task.wanted, (), nothing, nothing, batch_cost_usd=nothing)


def _summed(task: Task, kept: int, stages: tuple[StageEstimate, ...]) -> PlanEstimate:
    """The plan of some stages, at the teacher's price and the judge's."""
    config = task.config
    estimate = PlanEstimate(task.wanted, kept, stages, None, (0.0, 0.0))
    minutes = tuple(
        _minutes(config, calls, usage)
        for calls, usage in zip(estimate.calls, estimate.usage, strict=True)
    )
    return replace(
        estimate,
        cost_usd=_cost(stages, _prices(config)),
        batch_cost_usd=_cost(stages, _prices(config, in_batches=True)),
        minutes=(minutes[0], minutes[1]),
    )


def _cost(stages: Iterable[StageEstimate], prices: Prices) -> tuple[float, float] | None:
    """What the stages cost at least and at most; None where a price is not known."""
    low = high = 0.0
    for stage in stages:
        price = prices[1] if stage.stage == JUDGE else prices[0]
        if not stage.most:
            continue
        if price is None:
            return None
        each = price.of(stage.each)
        low, high = low + each * stage.fewest, high + each * stage.most
    return low, high


def _minutes(config: DistillationConfig, calls: int, usage: Usage) -> float:
    """A usual provider's time, a laptop's, or that of the limits where they are slower."""
    if config.teacher.startswith("mlx/"):
        return usage.completion_tokens / TOKENS_PER_SECOND_HERE / 60
    at_once = min(config.max_concurrency, USUALLY_AT_ONCE)
    waits = calls * SECONDS_BEFORE_FIRST_TOKEN + usage.completion_tokens / TOKENS_PER_SECOND
    seconds = waits / at_once
    by_requests = calls / config.requests_per_minute if config.requests_per_minute else 0.0
    by_tokens = usage.total_tokens / config.tokens_per_minute if config.tokens_per_minute else 0.0
    return max(seconds / 60, by_requests, by_tokens)


def _low_high(bounds: Sequence[float]) -> dict[str, float]:
    return dict(zip(("low", "high"), bounds, strict=True))


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
