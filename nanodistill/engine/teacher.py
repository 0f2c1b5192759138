"""The teacher service: requests in, durable outcomes out.

    async with open_teacher(config, journal, provider, on_event, stop) as teacher:
        request = teacher.request("generate", messages, schema=schema, ordinal=3)
        await teacher.complete_all(requests)
        for result in teacher.results(requests):
            ...                                   # an Answer or a Failure, in plan order

`complete_all` returns when each request has an outcome in the journal (or has failed too often in
this session; the next session asks it again), or raises what stopped the run. Stages see no
transport, no limits and no retries. Requests are pulled as they are needed, so any amount of work
will do.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.engine.adaptive_concurrency import START
from nanodistill.engine.budget import Before, Budget, Estimated, Size
from nanodistill.engine.dispatcher import Dispatcher
from nanodistill.engine.engine_context import EngineContext
from nanodistill.engine.group_commit import Offload, open_group_commit, own_threads
from nanodistill.engine.rate_limiter import Allowance, Lanes, RateLimiter
from nanodistill.engine.response_index import FailedRequest, ResponseIndex, in_batches
from nanodistill.engine.response_validation import Answer, Failure, load_validation
from nanodistill.engine.retry import RetryPolicy
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.usage import UsageStats
from nanodistill.errors import ConfigError, Problem
from nanodistill.events import Listener
from nanodistill.frozen_gc import frozen_gc
from nanodistill.journal import Journal, UsageTotals
from nanodistill.prevent_sleep import prevent_sleep
from nanodistill.providers.base import Provider
from nanodistill.providers.local_mlx import MAX_BATCH
from nanodistill.providers.model_resolution import MLX
from nanodistill.providers.prices import Price, price_of
from nanodistill.providers.request_params import params_for
from nanodistill.secrets import Redactor
from nanodistill.types import Message, Request, Usage

JUDGE = "judge"
"""The stage of the judge's calls."""
ESTIMATED = "estimated spend"
"""The note that keeps what calls took of which nobody said it."""


@dataclass(frozen=True, slots=True)
class CostSurvey:
    """What settling would reuse and ask, and about what that takes. Nothing was spent.

    `cost_usd` is None where no price is known.
    """

    reused: int = 0
    to_ask: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None


class Teacher:
    """An open teacher. Make one with `open_teacher`."""

    def __init__(
        self, config: DistillationConfig, session: EngineContext, flow: Dispatcher
    ) -> None:
        self._config = config
        self._session = session
        self._flow = flow

    @property
    def account(self) -> UsageStats:
        """What this session has made, reused and spent so far."""
        return self._session.account

    @property
    def lost(self) -> Mapping[str, FailedRequest]:
        """Why requests have no response in this session, by key."""
        return self._session.lost

    def request(
        self,
        stage: str,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        ordinal: int = 0,
    ) -> Request:
        """A request of this run: the stage's `params` joined with the user's settings.

        `ordinal` tells byte-identical requests apart, and is added to a provider's `seed`.
        """
        return Request(
            stage=stage,
            endpoint=self._session.provider.endpoint,
            model=self._config.teacher,
            messages=tuple(messages),
            params=params_for(self._config, params or {}, ordinal),
            schema=schema,
            ordinal=ordinal,
        )

    async def complete_all(self, requests: Iterable[Request]) -> None:
        """Give each of `requests` an outcome, durable before this returns.

        Any number of settlings may be under way together; they share limits and budget.

        Raises:
            RunIncompleteError: interrupted, out of budget, refused, disk full. What came back is
                safe. This
                teacher asks nothing any more.
        """
        await self._flow.complete_all(requests)

    def results(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """The outcome of each settled request, in order, from the journal.

        Raises:
            LookupError: a request was not settled.
        """
        return self._session.chains.results(requests)

    async def survey(self, requests: Iterable[Request]) -> CostSurvey:
        """What settling `requests` would reuse and ask."""
        budget = self._session.budget
        reused, to_ask, usage = 0, 0, Usage()
        cost: float | None = 0.0
        for batch in in_batches(requests):
            find = functools.partial(self._session.chains.find, batch)
            found = await self._session.offload(find)
            reused += found.done
            to_ask += len({item.key for item in found.open})
            for item in found.open:
                each = budget.estimator.typical(Size.of(item.request))
                price = budget.cost_of(item.request.model, each)
                cost = None if cost is None or price is None else cost + price
                usage += each
        return CostSurvey(reused, to_ask, usage, cost)


@asynccontextmanager
async def open_teacher(
    config: DistillationConfig,
    journal: Journal,
    provider: Provider,
    on_event: Listener,
    stop: StopSignal,
    *,
    offload: Offload | None = None,
    given_up: Mapping[str, FailedRequest] | None = None,
    judge_endpoint: str | None = None,
) -> AsyncIterator[Teacher]:
    """A teacher that asks `provider` and keeps what comes back in `journal`.

    Closing it commits what has arrived; it does not close the provider. `offload` runs what
    blocks; unset, threads of its own do. What an earlier session had `lost` and did without is
    not asked again where it is `given_up`. `judge_endpoint` is where the judge is asked, if
    there is one.

    Raises:
        ConfigError: max_cost_usd is set and the price of teacher or judge is not known.
    """
    offload = offload or own_threads()
    prices = await offload(lambda: _prices(config))
    await offload(load_validation)
    stages, before = await offload(lambda: _before(journal))
    lost = dict(given_up or {})
    async with open_group_commit(journal, offload) as recorder:
        session = EngineContext(
            provider=provider,
            recorder=recorder,
            chains=ResponseIndex(journal, lost),
            lost=lost,
            lanes=_lanes(config, stages, provider.endpoint == judge_endpoint),
            budget=Budget(config, prices, before, lambda note: journal.keep_note(ESTIMATED, note)),
            retry=RetryPolicy(config.max_retries, Random()),
            account=UsageStats(),
            stop=stop,
            on_event=on_event,
            redact=Redactor.of([config.litellm_kwargs, config.judge_litellm_kwargs]),
            offload=offload,
            roles={} if config.judge in (None, config.teacher) else {config.judge: "judge"},
        )
        with prevent_sleep(), frozen_gc():
            async with Dispatcher(session).open() as flow:
                yield Teacher(config, session, flow)


def _before(journal: Journal) -> tuple[Mapping[str, UsageTotals], Before]:
    """What earlier sessions took, by stage and in all."""
    stages = journal.sums()
    estimated = Estimated.from_note(journal.note(ESTIMATED))
    return stages, Before(sum(stages.values(), UsageTotals()), journal.unpriced(), estimated)


def _lanes(
    config: DistillationConfig, stages: Mapping[str, UsageTotals], at_one_endpoint: bool
) -> Lanes:
    """The limits to begin with, of the teacher and of a judge that is another model.

    What the user allows is kept by each; where both are asked at one endpoint, by both together.
    """
    judged = stages.get(JUDGE, UsageTotals()).answered
    answered = sum(sums.answered for sums in stages.values())
    judge = None if config.judge == config.teacher else config.judge
    if judge is None:
        return Lanes(_admission(config, config.teacher, answered), {})
    shared = None
    if at_one_endpoint:
        given = config.requests_per_minute, config.tokens_per_minute
        shared = Allowance(config.max_concurrency, *given)
    teacher = _admission(config, config.teacher, answered - judged, shared)
    return Lanes(teacher, {judge: _admission(config, judge, judged, shared)})


def _admission(
    config: DistillationConfig, model: str, answered_before: int, shared: Allowance | None = None
) -> RateLimiter:
    """One model's limits. What suits a model in this process is known: one full batch."""
    most, start = config.max_concurrency, START
    if model.startswith(MLX):
        most, start = min(most, MAX_BATCH), MAX_BATCH
    given = config.requests_per_minute, config.tokens_per_minute
    return RateLimiter(most, *given, start=start, answered_before=answered_before, shared=shared)


def _prices(config: DistillationConfig) -> dict[str, Price | None]:
    """The prices of teacher and judge, which a budget in dollars can't do without."""
    fields = [("teacher", config.teacher, config.teacher_price)]
    if config.judge not in (None, config.teacher):
        fields.append(("judge", config.judge, config.judge_price))
    prices = {model: price_of(model, own) for _, model, own in fields}
    problems = [
        Problem(
            "max_cost_usd",
            f"is ${config.max_cost_usd:g}, but no price is known for {model}; set "
            f"{name}_price to its USD per million input and output tokens",
        )
        for name, model, _ in fields
        if config.max_cost_usd is not None and prices[model] is None
    ]
    if problems:
        raise ConfigError("The budget can't be kept:", problems)
    return prices
