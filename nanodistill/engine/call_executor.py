"""One call: the attempt, its cost, its record in the journal, and what follows from it.

Only bugs are raised out of a call: what stops the run goes to `stop`, what is to be asked again
goes back to the queue. An answer is committed before it is looked at.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import fields, replace

import anyio

from nanodistill.engine.call_queue import Batch, CallQueue, InFlightCall, PendingCall
from nanodistill.engine.engine_context import EngineContext
from nanodistill.engine.group_commit import UnstorableRecordError
from nanodistill.engine.rate_limiter import RateLimiter
from nanodistill.engine.response_index import FailedRequest, PendingRequest
from nanodistill.engine.response_validation import (
    VALIDATION_VERSION,
    Answer,
    Exchange,
    Failure,
    next_step,
)
from nanodistill.engine.usage import ProgressReporter
from nanodistill.errors import (
    CallError,
    FatalProviderError,
    NanoDistillError,
    RequestRejectedError,
    TeacherUnavailableError,
    TransientError,
)
from nanodistill.events import Notice
from nanodistill.journal import ASKED_AGAIN, Attempt, Call, Outcome, StoredResponse, Validated
from nanodistill.providers.base import FURTHER, Reply
from nanodistill.providers.response_parser import count
from nanodistill.types import Completion, Request, Usage

MOST_REFUSALS = 30
TOLD_AT = frozenset(10**power for power in range(9))
MAY_BE_BILLED = frozenset({"timeout", "bad_body"})
"""Failures of calls on which the provider has worked, whatever came of it."""


class CallExecutor:
    """Makes calls for all settlings. `wake` is called when a limit may have room again."""

    def __init__(
        self,
        session: EngineContext,
        queue: CallQueue,
        watch: ProgressReporter,
        *,
        stop: Callable[[NanoDistillError], None],
        wake: Callable[[], None],
    ) -> None:
        self._session = session
        self._queue = queue
        self._watch = watch
        self._stop = stop
        self._wake = wake

    async def make(self, launch: InFlightCall) -> None:
        """One attempt, from launch to commit, and to what follows."""
        session = self._session
        FURTHER.set(functools.partial(self._further, launch))
        try:
            reply = await session.provider.complete(launch.work.request)
        except TransientError as error:
            await self._failed(launch, error)
        except RequestRejectedError as error:
            await self._row_failed(launch, error)
        except FatalProviderError as error:
            self._stopped(launch, error)
        except BaseException:
            self._admission(launch).gone(launch.ticket)
            session.budget.settle(launch.reservation, Usage(), 0.0)
            raise
        else:
            await self._answered(launch, reply)

    async def _answered(self, launch: InFlightCall, reply: Reply) -> None:
        session, work = self._session, launch.work
        completion = self._as_kept(launch, reply.completion)
        usage = completion.usage
        now = anyio.current_time()
        self._admission(launch).answered(launch.ticket, now, usage.total_tokens, reply.hints)
        session.budget.estimator.learn(work.size, usage)
        if usage.total_tokens:
            session.budget.settle(launch.reservation, usage, completion.cost_usd)
        else:
            written = len(completion.text) + len(completion.reasoning or "")
            session.budget.settle_unknown(launch.reservation, written=written)
        attempt = self._attempt(launch, "answered", usage, completion.cost_usd)
        self._watch.answered(work.request.stage, usage.total_tokens, completion.cost_usd)
        self._wake()
        response = StoredResponse(work.open.key, work.request.stage, completion)
        try:
            if await self._commit(Call(attempt, response)):
                await self._go_on(work, completion)
        except UnstorableRecordError as error:
            await self._unstorable(work, attempt, f"the answer can't be stored: {error}")

    def _admission(self, launch: InFlightCall) -> RateLimiter:
        return self._session.lanes.of(launch.work.request.model)

    def _as_kept(self, launch: InFlightCall, completion: Completion) -> Completion:
        """As it arrived, with a price where the provider gave none and we know one.

        Nothing is redacted: an answer is data, and "the postgres server" must not lose a word to
        a password of this machine. Figures that make no sense count as unknown.
        """
        told = completion.usage
        usage = Usage(**{each.name: count(getattr(told, each.name)) for each in fields(told)})
        cost = completion.cost_usd
        if cost is not None and not (isinstance(cost, int | float) and 0 <= cost < math.inf):
            cost = None
        if cost is None and usage.total_tokens:
            cost = self._session.budget.cost_of(launch.work.request.model, usage)
        return replace(completion, usage=usage, cost_usd=cost)

    async def _unstorable(self, work: PendingCall, attempt: Attempt, message: str) -> None:
        failure = StoredResponse(
            work.open.key, work.request.stage, failure="bad_body", message=message
        )
        if await self._commit(Call(replace(attempt, usage=Usage(), cost_usd=None), failure)):
            self._row_lost(work.job, work.request, "bad_body", message)
            await self._free(work)

    async def _failed(self, launch: InFlightCall, error: TransientError) -> None:
        session, work = self._session, launch.work
        held = self._admission(launch).failed(launch.ticket, anyio.current_time(), error)
        session.recorder.note(
            Call(self._failure(launch, "refused" if error.is_refusal else "failed", error))
        )
        if error.kind == "timeout":
            self._tell_of_timeout(launch, error)
        work.refusals += error.is_refusal
        if held or work.refusals > MOST_REFUSALS:
            await self._try_again_or_lose(work, error)
        else:
            self._queue.again(work)
        self._give_up_if_tripped(work.request)

    def _tell_of_timeout(self, launch: InFlightCall, error: TransientError) -> None:
        """Say so at the first call that comes too late, and each time there are ten times more."""
        session = self._session
        session.account.timed_out += 1
        times = session.account.timed_out
        if times not in TOLD_AT:
            return
        calls = "A call" if times == 1 else f"{times:,} calls"
        level = self._admission(launch).limit
        text = (
            f"{calls} to the {self._who(launch.work.request)} timed out "
            f"({session.redact(error.message)}); {level} are now in flight at most. Set "
            "timeout_seconds higher for a slow server, or max_concurrency lower."
        )
        session.on_event(Notice(text, "warning"))

    async def _try_again_or_lose(self, work: PendingCall, error: TransientError) -> None:
        work.failures += 1
        wait = self._session.retry.wait_after(work.failures, error)
        if wait is not None:
            self._queue.put_off(work, anyio.current_time() + wait)
            return
        said = self._session.redact(error.message)
        message = f"{work.failures} attempts failed, the last one: {said}"
        self._session.lost[work.open.key] = FailedRequest(error.kind, message)
        self._row_lost(work.job, work.request, error.kind, message)
        await self._free(work)

    async def _row_failed(self, launch: InFlightCall, error: RequestRejectedError) -> None:
        session, work = self._session, launch.work
        self._admission(launch).declined(launch.ticket, anyio.current_time())
        attempt = self._failure(launch, "row_failed", error)
        self._wake()
        said = session.redact(error.message)
        response: StoredResponse | None = None
        if error.kind in ASKED_AGAIN:
            session.lost[work.open.key] = FailedRequest(error.kind, said)
        else:
            response = StoredResponse(
                work.open.key, work.request.stage, failure=error.kind, message=said
            )
        if await self._commit(Call(attempt, response)):
            self._row_lost(work.job, work.request, error.kind, said)
            await self._free(work)

    def _stopped(self, launch: InFlightCall, error: FatalProviderError) -> None:
        session = self._session
        self._admission(launch).gone(launch.ticket)
        session.recorder.note(Call(self._failure(launch, "stopped", error)))
        self._stop(_refused(self._who(launch.work.request), session.redact(error.message), error))

    # The ledger

    def _further(self, launch: InFlightCall, error: CallError) -> bool:
        """Count an attempt within a call that was refused, if one more may be made."""
        session = self._session
        if not session.budget.further():
            return False
        self._admission(launch).sent_again(anyio.current_time())
        attempt = replace(self._attempt(launch, "failed", Usage(), None), kind=error.kind)
        session.recorder.note(Call(replace(attempt, status=error.status)))
        return True

    def _failure(self, launch: InFlightCall, outcome: Outcome, error: CallError) -> Attempt:
        budget, usage = self._session.budget, error.usage or Usage()
        cost = None if error.usage is None else budget.cost_of(launch.reservation.model, usage)
        if error.usage is None and error.kind in MAY_BE_BILLED:
            budget.settle_unknown(launch.reservation, answered=False)
        else:
            budget.settle(launch.reservation, usage, cost)
        attempt = self._attempt(launch, outcome, usage, cost)
        return replace(attempt, kind=error.kind, status=error.status)

    def _attempt(
        self, launch: InFlightCall, outcome: Outcome, usage: Usage, cost_usd: float | None
    ) -> Attempt:
        """The ledger's line for `launch`, counted in the account."""
        session, request = self._session, launch.work.request
        attempt = Attempt(
            at=launch.at,
            stage=request.stage,
            model=request.model,
            key=launch.work.open.key,
            cause=launch.work.cause,
            outcome=outcome,
            latency=anyio.current_time() - launch.ticket.at,
            usage=usage,
            cost_usd=cost_usd,
        )
        session.account.add(attempt)
        return attempt

    async def _commit(self, call: Call) -> bool:
        """Make `call` durable; if that can't be done the run stops."""
        try:
            await self._session.recorder.record(call)
        except NanoDistillError as error:
            self._stop(error)
            return False
        return True

    # After the commit

    async def _go_on(self, work: PendingCall, completion: Completion) -> None:
        """Look at a committed completion: whole, or something to ask once more."""
        step = next_step([Exchange(work.request, work.open.key, completion)])
        if not work.open.is_root or isinstance(step, Request):
            await self.look_again(work.open.root, work.job)
        else:
            self._row_done(work.job, work.request, step)
            if isinstance(step, Answer) and work.request.schema is not None:
                self._session.recorder.remark(Validated(work.open.key, VALIDATION_VERSION))
        await self._free(work)

    async def look_again(self, root: Request, job: Batch) -> None:
        """Find out in the journal what is open of the chain of `root`, and queue it."""
        accepted = False
        while not accepted:
            with self._queue.looking():
                end = await self._session.offload(lambda: self._session.chains.end(root))
                if not isinstance(end, PendingRequest):
                    self._row_done(job, root, end)
                    return
                accepted = self._queue.accept(end, job, first=True)

    async def _free(self, work: PendingCall) -> None:
        """`work` has come to its end; what has waited for the same answer looks for it."""
        for want in self._queue.free(work):
            await self.look_again(want.open.root, want.job)

    def _row_done(self, job: Batch, request: Request, end: Answer | Failure) -> None:
        if isinstance(end, Failure):
            self._row_lost(job, request, end.kind, end.message)
        else:
            job.row_done()
            self._session.lanes.of(request.model).breaker.row_done()

    def _row_lost(self, job: Batch, request: Request, kind: str, message: str) -> None:
        job.row_done()
        self._session.lanes.of(request.model).breaker.row_lost(kind, message)
        self._give_up_if_tripped(request)

    def _give_up_if_tripped(self, request: Request) -> None:
        reason = self._session.lanes.of(request.model).breaker.reason
        if reason is not None:
            self._stop(_gave_up(self._who(request), self._session.redact(reason)))

    def _who(self, request: Request) -> str:
        """Whom a request asks, for a person."""
        return self._session.roles.get(request.model, "teacher")


def _refused(who: str, said: str, error: FatalProviderError) -> TeacherUnavailableError:
    return TeacherUnavailableError(
        f"the {who} can't be used: {said}",
        next_step=error.way_out or "Mend that and run the same command: it goes on from here.",
    )


def _gave_up(who: str, why: str) -> TeacherUnavailableError:
    return TeacherUnavailableError(
        f"gave up on the {who}: {why}",
        next_step="Run the same command later, or with another teacher: all answers so far "
        "are safe.",
    )
