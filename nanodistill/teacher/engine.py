"""The teacher service: requests in, durable outcomes out.

    async with open_teacher(config, journal, provider, listen, stop) as teacher:
        request = teacher.request("generate", messages, schema=schema, ordinal=3)
        await teacher.settle(requests)
        for outcome in teacher.outcomes(requests):
            ...                                   # an Answer or a Failure, in plan order

`settle` comes back when each request has an outcome in the journal (or has
failed too often in this session; the next one asks again), or raises what
stopped the run. Stages see no transport, no limits and no retries. How long the
work is does not matter: requests are pulled as they are needed.

Truncated and malformed answers are followed up inside (`answers`), limits
are in `limits`, fates of failed calls in `faults`, who retries in `retry`.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from nanodistill.awake import awake
from nanodistill.config import DistillationConfig
from nanodistill.errors import ConfigError, Problem
from nanodistill.events import Listener
from nanodistill.heap import heap_set_aside
from nanodistill.journal import Journal, Sums
from nanodistill.records import Message, Request, Usage
from nanodistill.redaction import Redactor
from nanodistill.teacher.account import Account
from nanodistill.teacher.answers import Answer, Failure, load_validation
from nanodistill.teacher.asking import params_for
from nanodistill.teacher.budget import Budget, Size
from nanodistill.teacher.chains import Chains, Lost, in_batches
from nanodistill.teacher.concurrency import START
from nanodistill.teacher.flow import Flow
from nanodistill.teacher.limits import Admission
from nanodistill.teacher.mlx import MAX_BATCH
from nanodistill.teacher.prices import Price, price_of
from nanodistill.teacher.provider import Provider
from nanodistill.teacher.recorder import Offload, own_threads, recording
from nanodistill.teacher.resolving import MLX
from nanodistill.teacher.retry import RetryPolicy
from nanodistill.teacher.session import Session
from nanodistill.teacher.stop import StopSignal


@dataclass(frozen=True, slots=True)
class Survey:
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
        self, config: DistillationConfig, session: Session, flow: Flow, price: Price | None
    ) -> None:
        self._config = config
        self._session = session
        self._flow = flow
        self._price = price

    @property
    def account(self) -> Account:
        """What this session has made, reused and spent so far."""
        return self._session.account

    @property
    def lost(self) -> Mapping[str, Lost]:
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

    async def settle(self, requests: Iterable[Request]) -> None:
        """Give each of `requests` an outcome, durable before this returns.

        Any number of settlings may be under way together; they share limits and budget.

        Raises:
            Stopped: interrupted, out of budget, refused, disk full. What came back is safe. This
                teacher asks nothing any more.
        """
        await self._flow.settle(requests)

    def outcomes(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """The outcome of each settled request, in order, from the journal.

        Raises:
            LookupError: a request was not settled.
        """
        return self._session.chains.outcomes(requests)

    async def survey(self, requests: Iterable[Request]) -> Survey:
        """What settling `requests` would reuse and ask."""
        reused, to_ask, usage = 0, 0, Usage()
        for batch in in_batches(requests):
            find = functools.partial(self._session.chains.find, batch)
            found = await self._session.offload(find)
            reused += found.done
            to_ask += len({item.key for item in found.open})
            for item in found.open:
                usage += self._session.budget.estimator.typical(Size.of(item.request))
        cost = None if self._price is None else self._price.of(usage)
        return Survey(reused, to_ask, usage, cost)


@asynccontextmanager
async def open_teacher(
    config: DistillationConfig,
    journal: Journal,
    provider: Provider,
    listen: Listener,
    stop: StopSignal,
    *,
    offload: Offload | None = None,
    given_up: Mapping[str, Lost] | None = None,
) -> AsyncIterator[Teacher]:
    """A teacher that asks `provider` and keeps what comes back in `journal`.

    Closing it commits what has arrived; it does not close the provider. `offload` runs what
    blocks; unset, threads of its own do. What an earlier session had `lost` and did without is
    not asked again where it is `given_up`.

    Raises:
        ConfigError: max_cost_usd is set and no price is known.
    """
    offload = offload or own_threads()
    price = await offload(lambda: _price(config))
    await offload(load_validation)
    before = await offload(lambda: sum(journal.sums().values(), Sums()))
    lost = dict(given_up or {})
    async with recording(journal, offload) as recorder:
        session = Session(
            provider=provider,
            recorder=recorder,
            chains=Chains(journal, lost),
            lost=lost,
            admission=_admission(config, before.answered),
            budget=Budget(config, price, before),
            retry=RetryPolicy(config.max_retries, Random()),
            account=Account(),
            stop=stop,
            listen=listen,
            redact=Redactor.of(config.litellm_kwargs),
            offload=offload,
        )
        with awake(), heap_set_aside():
            async with Flow(session).open() as flow:
                yield Teacher(config, session, flow, price)


def _admission(config: DistillationConfig, answered_before: int) -> Admission:
    """The limits to begin with. What suits a model in this process is known: one full batch."""
    most, start = config.max_concurrency, START
    if config.teacher.startswith(MLX):
        most, start = min(most, MAX_BATCH), MAX_BATCH
    given = config.requests_per_minute, config.tokens_per_minute
    return Admission(most, *given, start=start, answered_before=answered_before)


def _price(config: DistillationConfig) -> Price | None:
    """The teacher's price, which a budget in dollars can't do without."""
    known = price_of(config.teacher, config.teacher_price)
    if known is None and config.max_cost_usd is not None:
        problem = Problem(
            "max_cost_usd",
            f"is ${config.max_cost_usd:g}, but no price is known for {config.teacher}; set "
            "teacher_price to its USD per million input and output tokens",
        )
        raise ConfigError("The budget can't be kept:", [problem])
    return known
