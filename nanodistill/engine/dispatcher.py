"""The loop of an open teacher: requests are pulled, launched, retried and committed until done.

Any number of `complete_all` calls may be under way; each is a `Batch` and returns when its own
requests have outcomes. A batch feeds its requests, some hundred at a time, and drops those that the
journal has answered. The dispatcher launches what limits and budget allow. There is one task for
each call in flight (`call_executor`), and one that waits for a person to stop the run. Calls to be
made again lie in the queue (`call_queue`) and hold nothing. So tasks and memory grow with the calls
in flight, not with the work.

What stops the run is kept in `_halt`: launching ends, calls in flight come back and are committed,
and then every batch raises it, also those that come later. An exception that is not one of ours is
a bug and is raised at once; what has arrived is still committed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence, Sized
from contextlib import asynccontextmanager
from typing import Self

import anyio

from nanodistill.engine.call_executor import CallExecutor
from nanodistill.engine.call_queue import Batch, CallQueue, InFlightCall, Notifier, PendingCall
from nanodistill.engine.engine_context import EngineContext
from nanodistill.engine.response_index import in_batches
from nanodistill.engine.stop_signal import DRAIN_SECONDS
from nanodistill.engine.usage import ProgressReporter
from nanodistill.errors import NanoDistillError, RunInterruptedError
from nanodistill.types import Request

MOST_ARRIVED = 250
"""Answers on their way to the disk, from which on nothing is launched."""


class Dispatcher:
    """Settles requests while it is `open`."""

    def __init__(self, session: EngineContext) -> None:
        self._session = session
        self._queue = CallQueue()
        self._watch = ProgressReporter(session.account, session.on_event, anyio.current_time)
        self._calls = CallExecutor(
            session, self._queue, self._watch, stop=self._stop, wake=self._wake
        )
        self._jobs: list[Batch] = []
        self._feeding: set[str] = set()
        self._under_way = 0
        self._land_by = math.inf
        self._halt: NanoDistillError | None = None
        self._bug: Exception | None = None
        self._may_launch, self._needs_work, self._completed = Notifier(), Notifier(), Notifier()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Launch what is settled within. Calls that an error leaves in flight may still land."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._await_stop)
            tasks.start_soon(self._dispatch)
            try:
                yield self
            except Exception:
                await self._drain_in_flight()
                raise
            finally:
                tasks.cancel_scope.cancel()

    async def complete_all(self, requests: Iterable[Request]) -> None:
        """Give each of `requests` an outcome.

        Raises:
            RunIncompleteError: the run can't go on; what came back is committed.
        """
        job = Batch(len(requests) if isinstance(requests, Sized) else None)
        self._jobs.append(job)
        try:
            await self._feed(job, requests)
            while not (job.is_done or self._is_halted):
                await job.ended.wait()
        except NanoDistillError as error:
            self._stop(error)
            raise
        except Exception as bug:
            self._break(bug)
            raise
        except BaseException:
            self._stop(_interrupted())
            raise
        finally:
            self._jobs.remove(job)
            self._tell(job, always=True)
            self._watch.leave(job)
        if not job.is_done:
            await self._raise_what_stopped()

    @property
    def _is_halted(self) -> bool:
        return self._halt is not None or self._bug is not None

    # Feeding

    async def _feed(self, job: Batch, requests: Iterable[Request]) -> None:
        for batch in in_batches(requests):
            if not job.stage:
                job.stage, job.model = batch[0].stage, batch[0].model
                self._feeding.add(job.model)
                self._watch.enter(job)
            job.pulled += len(batch)
            await self._sort_out(batch, job)
            self._tell(job)
            self._may_launch.notify()
            while self._queue.has_enough(batch[0].model) and not self._is_halted:
                await self._needs_work.wait()
            if self._is_halted:
                return
        job.is_fed = True

    async def _sort_out(self, batch: Sequence[Request], job: Batch) -> None:
        """Queue what is open of a batch."""
        session = self._session
        with self._queue.looking():
            found = await session.offload(functools.partial(session.chains.find, batch))
            outdated = [item for item in found.open if not self._queue.accept(item, job)]
        session.account.reused += found.reused
        job.done += found.done
        for whole in found.whole:
            session.recorder.remark(whole)
        for item in outdated:
            await self._calls.look_again(item.root, job)

    # Launching

    async def _dispatch(self) -> None:
        while True:
            await self._may_launch.wait(self._launch_what_may())

    def _launch_what_may(self) -> float:
        """Launch calls until none may; gives the seconds until one might."""
        while not self._is_halted:
            now = anyio.current_time()
            heads = self._queue.next(now)
            self._ask_for_more()
            if self._under_way - self._session.lanes.in_flight >= MOST_ARRIVED:
                return self._queue.next_due() - now
            waits = [self._launch_or_wait(work, now) for work in heads]
            if not heads or all(wait > 0 for wait in waits):
                return min(*waits, self._queue.next_due() - now, math.inf)
        return math.inf

    def _ask_for_more(self) -> None:
        """Wake the settlings that have requests left, where calls to their model run out."""
        if not all(self._queue.has_enough(model) for model in self._feeding):
            self._needs_work.notify()

    def _launch_or_wait(self, work: PendingCall, now: float) -> float:
        """Launch a call (0), or say for how many seconds its model's limits hold it back."""
        session = self._session
        if self._is_halted:
            return math.inf
        tokens = session.budget.estimator.typical(work.size).total_tokens
        admission = session.lanes.of(work.request.model)
        wait = admission.wait(now, tokens)
        if wait > 0:
            return wait
        reservation = session.budget.reserve(work.size)
        if reservation is None:
            if self._under_way == 0:
                self._stop(session.budget.exhausted(work.size))
            return math.inf
        ticket = admission.launched(work.request.stage, now, tokens)
        self._start(
            InFlightCall(self._queue.take(work.request.model), ticket, reservation, time.time())
        )
        return 0.0

    def _start(self, launch: InFlightCall) -> None:
        self._under_way += 1
        self._tasks.start_soon(self._make, launch)

    async def _make(self, launch: InFlightCall) -> None:
        try:
            await self._calls.make(launch)
        except Exception as bug:  # noqa: BLE001 - raised by all settlings
            self._break(bug)
        finally:
            self._under_way -= 1
            self._completed.notify()
        self._tell(launch.work.job)
        self._wake()

    def _wake(self) -> None:
        self._may_launch.notify()

    # Ending

    async def _await_stop(self) -> None:
        stop = self._session.stop
        await stop.requested()
        self._land_by = min(self._land_by, anyio.current_time() + DRAIN_SECONDS)
        self._stop(_interrupted())
        self._completed.notify()
        await stop.leaving()
        self._completed.notify()

    def _stop(self, error: NanoDistillError) -> None:
        """Launch nothing any more; the first reason is the one that is raised."""
        self._halt = self._halt or error
        self._wake_all()

    def _break(self, bug: Exception) -> None:
        self._bug = self._bug or bug
        self._wake_all()

    def _wake_all(self) -> None:
        self._needs_work.notify()
        for job in self._jobs:
            job.ended.set()

    async def _raise_what_stopped(self) -> None:
        if self._bug is None:
            await self._drain()
        raise self._bug or self._halt or AssertionError("a settling ended before its requests")

    async def _drain(self) -> None:
        """Let calls in flight come back and be committed, as long as the person waits."""
        while self._under_way and not self._session.stop.is_leaving:
            left = self._land_by - anyio.current_time()
            if left <= 0:
                return
            await self._completed.wait(left)

    async def _drain_in_flight(self) -> None:
        self._land_by = min(self._land_by, anyio.current_time() + DRAIN_SECONDS)
        self._stop(_interrupted())
        with anyio.CancelScope(shield=True):
            await self._drain()

    def _tell(self, job: Batch, *, always: bool = False) -> None:
        if job.stage:
            admission = self._session.lanes.of(job.model)
            self._watch.tell(job.stage, admission.in_flight, admission.limit, always=always)


def _interrupted() -> RunInterruptedError:
    return RunInterruptedError(
        "interrupted. All answers that came back are safe.",
        next_step="Run the same command to go on from here.",
    )
