"""One `settle`: work is pulled, launched, retried and committed until all of it is done.

Four kinds of tasks: the feeder pulls requests, some hundred at a time, and drops
those that the journal has answered; the dispatcher launches what the limits and
the budget let through; one task for each call in flight; and one that waits for
a person to stop the run. Calls that are to be made again lie in a heap with the
time at which they are due. So tasks and memory go with the calls in flight, not
with the work.

Nothing is raised out of a call's task: what stops the run is kept in `_halt`,
launching ends, calls in flight come back and are committed, and then it is
raised. An exception that is none of ours is a bug and ends everything at once;
what has arrived is still committed.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Iterable, Sized
from dataclasses import dataclass, replace
from itertools import count

import anyio

from nanodistill.errors import (
    CallError,
    Interrupted,
    NanoDistillError,
    RowFailed,
    RunStopped,
    TeacherRefused,
    Transient,
)
from nanodistill.journal import Attempt, Call, Cause, Outcome, Response, Whole
from nanodistill.records import Completion, Request, Usage
from nanodistill.teacher.account import Watch
from nanodistill.teacher.answers import RULES, Answer, Failure, Link, next_step
from nanodistill.teacher.budget import Reservation, Size
from nanodistill.teacher.chains import Lost, Open, in_batches
from nanodistill.teacher.limits import Ticket
from nanodistill.teacher.provider import Reply
from nanodistill.teacher.session import Session
from nanodistill.teacher.stop import DRAIN_SECONDS

READY = 256
MOST_UNCOMMITTED = 250
MOST_REFUSALS = 30


@dataclass(slots=True)
class Work:
    """A call that is wanted, and what has become of it so far."""

    open: Open
    size: Size
    tries: int = 0
    failures: int = 0
    refusals: int = 0

    @property
    def request(self) -> Request:
        return self.open.request

    @property
    def cause(self) -> Cause:
        return "retry" if self.tries > 1 else self.open.cause


@dataclass(frozen=True, slots=True)
class Launch:
    """A call in flight."""

    work: Work
    ticket: Ticket
    reservation: Reservation
    at: float


class Flow:
    """Settles some requests. Use it once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ready: deque[Work] = deque()
        self._later: list[tuple[float, int, Work]] = []
        self._order = count()
        self._busy: dict[str, list[Open]] = {}
        self._uncommitted = 0
        self._fed = False
        self._halt: NanoDistillError | None = None
        self._changed = anyio.Event()
        self._wanted = anyio.Event()
        self._watch = Watch(session.account, session.listen, anyio.current_time)

    async def settle(self, requests: Iterable[Request]) -> None:
        """Give each of `requests` an outcome.

        Raises:
            Stopped: the run can't go on; what came back is committed.
        """
        self._watch.total = len(requests) if isinstance(requests, Sized) else None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._await_stop)
            tasks.start_soon(self._feed, requests)
            while not self._is_over():
                await self._pause(self._launch_what_may())
            await self._drain()
            tasks.cancel_scope.cancel()
        self._tell(always=True)
        if self._halt is not None:
            raise self._halt

    # Feeding

    async def _feed(self, requests: Iterable[Request]) -> None:
        for batch in in_batches(requests):
            self._watch.stage = batch[0].stage
            found = await self._session.offload(lambda: self._session.chains.find(batch))  # noqa: B023
            self._session.account.reused += found.reused
            self._watch.done += found.done
            for whole in found.whole:
                self._session.recorder.remark(whole)
            for item in found.open:
                self._accept(item)
            self._tell()
            self._wake()
            while len(self._ready) >= READY:
                await self._wanted.wait()
                self._wanted = anyio.Event()
        self._fed = True
        self._wake()

    def _accept(self, item: Open, *, first: bool = False) -> None:
        """Queue a call, unless the same one is under way: then wait for that."""
        if item.key in self._busy:
            self._busy[item.key].append(item)
            return
        self._busy[item.key] = []
        work = Work(item, Size.of(item.request))
        (self._ready.appendleft if first else self._ready.append)(work)

    # Launching

    def _is_over(self) -> bool:
        if self._halt is not None:
            return True
        return self._fed and not self._busy

    async def _pause(self, seconds: float) -> None:
        if math.isinf(seconds):
            await self._changed.wait()
        else:
            with anyio.move_on_after(seconds):
                await self._changed.wait()
        self._changed = anyio.Event()

    def _launch_what_may(self) -> float:
        """Launch calls until none may; gives the seconds until one might."""
        while self._halt is None:
            now = anyio.current_time()
            self._collect_due(now)
            if not self._ready or self._uncommitted >= MOST_UNCOMMITTED:
                return self._later[0][0] - now if self._later else math.inf
            work = self._ready[0]
            tokens = self._session.budget.estimator.typical(work.size).total_tokens
            wait = self._session.admission.wait(now, tokens)
            if wait > 0:
                return wait
            reservation = self._session.budget.reserve(work.size)
            if reservation is None:
                if self._uncommitted == 0:
                    self._stop(self._session.budget.used_up(work.size))
                return math.inf
            self._ready.popleft()
            self._launch(work, reservation, tokens, now)
        return math.inf

    def _collect_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._later)[2])
        if len(self._ready) < READY:
            self._wanted.set()

    def _launch(self, work: Work, reservation: Reservation, tokens: int, now: float) -> None:
        work.tries += 1
        self._uncommitted += 1
        ticket = self._session.admission.launched(work.request.stage, now, tokens)
        self._tasks.start_soon(self._call, Launch(work, ticket, reservation, time.time()))

    # Calls

    async def _call(self, launch: Launch) -> None:
        """One attempt, from launch to commit."""
        session = self._session
        try:
            reply = await session.provider.complete(launch.work.request)
        except Transient as error:
            await self._failed(launch, error)
        except RowFailed as error:
            await self._row_failed(launch, error)
        except RunStopped as error:
            await self._stopped(launch, error)
        except BaseException:
            session.admission.gone(launch.ticket)
            session.budget.settle(launch.reservation, Usage(), 0.0)
            raise
        else:
            await self._answered(launch, reply)
        self._uncommitted -= 1
        self._tell()
        self._wake()

    async def _answered(self, launch: Launch, reply: Reply) -> None:
        session, work = self._session, launch.work
        completion = self._as_kept(reply.completion)
        usage = completion.usage
        session.admission.answered(
            launch.ticket, anyio.current_time(), usage.total_tokens, reply.hints
        )
        session.budget.estimator.learn(work.size, usage)
        attempt = self._attempt(launch, "answered", usage=usage, cost_usd=completion.cost_usd)
        self._watch.answered(usage.total_tokens)
        self._wake()
        response = Response(work.open.key, work.request.stage, completion)
        if await self._commit(Call(attempt, response)):
            await self._go_on(work, completion)

    def _as_kept(self, completion: Completion) -> Completion:
        """Without secrets, and with a price where the provider gave none and we know one."""
        cost = completion.cost_usd
        if cost is None and completion.usage.total_tokens:
            cost = self._session.budget.cost_of(completion.usage)
        text = self._session.redact(completion.text)
        return replace(completion, text=text, cost_usd=cost)

    async def _failed(self, launch: Launch, error: Transient) -> None:
        session, work = self._session, launch.work
        held = session.admission.failed(launch.ticket, anyio.current_time(), error)
        outcome: Outcome = "refused" if error.is_refusal else "failed"
        attempt = self._attempt(launch, outcome, error)
        work.refusals += error.is_refusal
        if held or work.refusals > MOST_REFUSALS:
            await self._try_again_or_lose(work, error)
        else:
            self._ready.append(work)
        self._give_up_if_tripped()
        session.recorder.note(Call(attempt))

    async def _try_again_or_lose(self, work: Work, error: Transient) -> None:
        work.failures += 1
        wait = self._session.retry.wait_after(work.failures, error)
        if wait is not None:
            due = anyio.current_time() + wait
            heapq.heappush(self._later, (due, next(self._order), work))
            return
        said = self._session.redact(error.message)
        message = f"{work.failures} attempts failed, the last one: {said}"
        self._session.lost[work.open.key] = Lost(error.kind, message)
        self._row_lost(error.kind, message)
        await self._free(work)

    async def _row_failed(self, launch: Launch, error: RowFailed) -> None:
        session, work = self._session, launch.work
        session.admission.declined(launch.ticket, anyio.current_time())
        said = session.redact(error.message)
        response = Response(work.open.key, work.request.stage, failure=error.kind, message=said)
        if await self._commit(Call(self._attempt(launch, "row_failed", error), response)):
            self._row_lost(error.kind, said)
            await self._free(work)

    async def _stopped(self, launch: Launch, error: RunStopped) -> None:
        session = self._session
        session.admission.gone(launch.ticket)
        session.recorder.note(Call(self._attempt(launch, "stopped", error)))
        self._stop(_refused(session.redact(error.message)))

    def _attempt(
        self,
        launch: Launch,
        outcome: Outcome,
        error: CallError | None = None,
        *,
        usage: Usage | None = None,
        cost_usd: float | None = None,
    ) -> Attempt:
        """The ledger's line for `launch`, counted in budget and account."""
        session, request = self._session, launch.work.request
        if error is not None:
            usage = error.usage
            cost_usd = None if usage is None else session.budget.cost_of(usage)
        usage = usage or Usage()
        if outcome == "answered" and not usage.total_tokens:
            session.budget.settle_unknown(launch.reservation)
        else:
            session.budget.settle(launch.reservation, usage, cost_usd)
        attempt = Attempt(
            at=launch.at,
            stage=request.stage,
            model=request.model,
            key=launch.work.open.key,
            cause=launch.work.cause,
            outcome=outcome,
            kind=None if error is None else error.kind,
            status=None if error is None else error.status,
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

    async def _go_on(self, work: Work, completion: Completion) -> None:
        """Look at a committed completion: whole, or something to ask once more."""
        if not work.open.is_root:
            await self._look_again(work.open.root)
        else:
            step = next_step([Link(work.request, work.open.key, completion)])
            if isinstance(step, Request):
                await self._look_again(work.request)
            else:
                self._row_done(step)
                if isinstance(step, Answer) and work.request.schema is not None:
                    self._session.recorder.remark(Whole(work.open.key, RULES))
        await self._free(work)

    async def _look_again(self, root: Request) -> None:
        """Find out in the journal what is open of the chain of `root`, and queue it."""
        end = await self._session.offload(lambda: self._session.chains.end(root))
        if isinstance(end, Open):
            self._accept(end, first=True)
        else:
            self._row_done(end)

    def _row_done(self, end: Answer | Failure) -> None:
        if isinstance(end, Failure):
            self._row_lost(end.kind, end.message)
        else:
            self._watch.done += 1
            self._session.admission.breaker.row_done()

    def _row_lost(self, kind: str, message: str) -> None:
        self._watch.done += 1
        self._session.admission.breaker.row_lost(kind, message)
        self._give_up_if_tripped()

    def _give_up_if_tripped(self) -> None:
        reason = self._session.admission.breaker.reason
        if reason is not None:
            self._stop(_gave_up(self._session.redact(reason)))

    async def _free(self, work: Work) -> None:
        """`work` has come to its end; what waited for the same answer looks for it."""
        for item in self._busy.pop(work.open.key):
            await self._look_again(item.root)

    # Ending

    async def _await_stop(self) -> None:
        stop = self._session.stop
        await stop.requested()
        self._stop(_interrupted())
        await stop.leaving()
        self._wake()

    def _stop(self, error: NanoDistillError) -> None:
        """Launch nothing any more; the first reason is the one that is raised."""
        self._halt = self._halt or error
        self._wake()

    async def _drain(self) -> None:
        """Let calls in flight come back and be committed, as long as the person waits."""
        stop, deadline = self._session.stop, math.inf
        while self._uncommitted and not stop.is_leaving:
            if stop.is_requested:
                deadline = min(deadline, anyio.current_time() + DRAIN_SECONDS)
            left = deadline - anyio.current_time()
            if left <= 0:
                return
            await self._pause(left)

    def _wake(self) -> None:
        self._changed.set()

    def _tell(self, *, always: bool = False) -> None:
        admission = self._session.admission
        self._watch.tell(admission.in_flight, admission.limit, always=always)


def _interrupted() -> Interrupted:
    return Interrupted(
        "interrupted. All answers that came back are safe.",
        next_step="Run the same command to go on from here.",
    )


def _refused(said: str) -> TeacherRefused:
    return TeacherRefused(
        f"the teacher can't be used: {said}",
        next_step="Mend that and run the same command: it goes on from here.",
    )


def _gave_up(why: str) -> TeacherRefused:
    return TeacherRefused(
        f"gave up on the teacher: {why}",
        next_step="Run the same command later, or with another teacher: all answers so far "
        "are safe.",
    )
