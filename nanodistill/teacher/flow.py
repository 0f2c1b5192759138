"""One `settle`: work is pulled, launched, retried and committed until all of it is done.

Four kinds of tasks: the feeder pulls requests, some hundred at a time, and drops
those that the journal has answered; the dispatcher launches what the limits and
the budget let through; one task for each call in flight (`calls`); and one that
waits for a person to stop the run. Calls that are to be made again lie in a queue
(`work`) and hold nothing. So tasks and memory go with the calls in flight, not
with the work.

What stops the run is kept in `_halt`: launching ends, calls in flight come back
and are committed, and then it is raised. An exception that is none of ours is a
bug and ends everything at once; what has arrived is still committed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Sequence, Sized

import anyio

from nanodistill.errors import Interrupted, NanoDistillError
from nanodistill.records import Request
from nanodistill.teacher.account import Watch
from nanodistill.teacher.calls import Calls
from nanodistill.teacher.chains import in_batches
from nanodistill.teacher.session import Session
from nanodistill.teacher.stop import DRAIN_SECONDS
from nanodistill.teacher.work import Launch, Queue

MOST_ARRIVED = 250
"""Answers on their way to the disk, from which on nothing is launched."""


class Flow:
    """Settles some requests. Use it once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue = Queue()
        self._watch = Watch(session.account, session.listen, anyio.current_time)
        self._calls = Calls(session, self._queue, self._watch, stop=self._stop, wake=self._wake)
        self._under_way = 0
        self._fed = False
        self._halt: NanoDistillError | None = None
        self._changed = anyio.Event()
        self._hungry = anyio.Event()

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

    def _is_over(self) -> bool:
        return self._halt is not None or (self._fed and self._queue.is_empty)

    # Feeding

    async def _feed(self, requests: Iterable[Request]) -> None:
        for batch in in_batches(requests):
            self._watch.stage = batch[0].stage
            await self._sort_out(batch)
            self._tell()
            self._wake()
            while self._queue.has_enough:
                await self._hungry.wait()
                self._hungry = anyio.Event()
        self._fed = True
        self._wake()

    async def _sort_out(self, batch: Sequence[Request]) -> None:
        """Queue what is open of a batch."""
        session = self._session
        with self._queue.looking():
            found = await session.offload(functools.partial(session.chains.find, batch))
            outdated = [item for item in found.open if not self._queue.accept(item)]
        session.account.reused += found.reused
        self._watch.done += found.done
        for whole in found.whole:
            session.recorder.remark(whole)
        for item in outdated:
            await self._calls.look_again(item.root)

    # Launching

    def _launch_what_may(self) -> float:
        """Launch calls until none may; gives the seconds until one might."""
        session = self._session
        while self._halt is None:
            now = anyio.current_time()
            work = self._queue.next(now)
            if not self._queue.has_enough:
                self._hungry.set()
            if work is None or self._under_way - session.admission.in_flight >= MOST_ARRIVED:
                return self._queue.next_due() - now
            tokens = session.budget.estimator.typical(work.size).total_tokens
            wait = session.admission.wait(now, tokens)
            if wait > 0:
                return wait
            reservation = session.budget.reserve(work.size)
            if reservation is None:
                if self._under_way == 0:
                    self._stop(session.budget.used_up(work.size))
                return math.inf
            ticket = session.admission.launched(work.request.stage, now, tokens)
            self._start(Launch(self._queue.take(), ticket, reservation, time.time()))
        return math.inf

    def _start(self, launch: Launch) -> None:
        self._under_way += 1
        self._tasks.start_soon(self._make, launch)

    async def _make(self, launch: Launch) -> None:
        await self._calls.make(launch)
        self._under_way -= 1
        self._tell()
        self._wake()

    async def _pause(self, seconds: float) -> None:
        if math.isinf(seconds):
            await self._changed.wait()
        else:
            with anyio.move_on_after(seconds):
                await self._changed.wait()
        self._changed = anyio.Event()

    def _wake(self) -> None:
        self._changed.set()

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
        while self._under_way and not stop.is_leaving:
            if stop.is_requested:
                deadline = min(deadline, anyio.current_time() + DRAIN_SECONDS)
            left = deadline - anyio.current_time()
            if left <= 0:
                return
            await self._pause(left)

    def _tell(self, *, always: bool = False) -> None:
        if self._watch.stage:
            admission = self._session.admission
            self._watch.tell(admission.in_flight, admission.limit, always=always)


def _interrupted() -> Interrupted:
    return Interrupted(
        "interrupted. All answers that came back are safe.",
        next_step="Run the same command to go on from here.",
    )
