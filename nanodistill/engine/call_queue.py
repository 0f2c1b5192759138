"""Calls that are wanted: which may go next, which later, which wait for another one.

A call is in the queue under its key from when it is accepted until it is freed, also while it is in
flight. The same call asked for again meanwhile waits for the first one's answer. `looking` guards
the moment in between: what the journal said in a thread may be out of date when it is acted upon.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import anyio

from nanodistill.engine.budget import Reservation, Size
from nanodistill.engine.rate_limiter import Permit
from nanodistill.engine.response_index import PendingRequest
from nanodistill.journal import Cause
from nanodistill.types import Request


class Notifier:
    """For tasks that look at the state of things, and wait for a change only if it does not do."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, seconds: float = math.inf) -> None:
        """Return at the next ring, or after so many seconds."""
        if self._event is None:
            self._event = anyio.Event()
        event = self._event
        if math.isinf(seconds):
            await event.wait()
        else:
            with anyio.move_on_after(seconds):
                await event.wait()


ENOUGH = 256


@dataclass(eq=False, slots=True)
class Batch:
    """One settling: how many of its requests were pulled so far, and have their outcomes.

    `total` is None where nobody knows how many there will be. `ended` is set when all are done,
    or when they can't be.
    """

    total: int | None = None
    stage: str = ""
    model: str = ""
    pulled: int = 0
    done: int = 0
    is_fed: bool = False
    ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_done(self) -> bool:
        return self.is_fed and self.done == self.pulled

    def row_done(self) -> None:
        self.done += 1
        if self.is_done:
            self.ended.set()


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request that is open, and the settling that wants it."""

    open: PendingRequest
    job: Batch


@dataclass(slots=True)
class PendingCall:
    """A call that is wanted, and what has become of it so far."""

    open: PendingRequest
    job: Batch
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
class InFlightCall:
    """A call in flight. `at` is the time of day."""

    work: PendingCall
    ticket: Permit
    reservation: Reservation
    at: float


class CallQueue:
    """The wanted calls of all settlings, in a line for each model that is asked."""

    def __init__(self) -> None:
        self._ready: dict[str, deque[PendingCall]] = {}
        self._later: list[tuple[float, int, PendingCall]] = []
        self._order = count()
        self._waiting: dict[str, list[Waiter]] = {}
        self._lookers = 0
        self._freed: set[str] = set()

    def has_enough(self, model: str) -> bool:
        """Whether enough calls to a model are ready; those to another one don't count."""
        return len(self._ready.get(model, ())) >= ENOUGH

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While the journal is looked into in a thread. Act on what it said before leaving."""
        self._lookers += 1
        try:
            yield
        finally:
            self._lookers -= 1
            if self._lookers == 0:
                self._freed.clear()

    def accept(self, item: PendingRequest, job: Batch, *, first: bool = False) -> bool:
        """Queue a call, or let it wait for the same one. False if that has just been freed."""
        if item.key in self._freed:
            return False
        if item.key in self._waiting:
            self._waiting[item.key].append(Waiter(item, job))
            return True
        self._waiting[item.key] = []
        work = PendingCall(item, job, Size.of(item.request))
        line = self._line(work)
        (line.appendleft if first else line.append)(work)
        return True

    def next(self, now: float) -> list[PendingCall]:
        """The call that is next for each model, left in the queue until it is taken."""
        while self._later and self._later[0][0] <= now:
            work = heapq.heappop(self._later)[2]
            self._line(work).appendleft(work)
        return [line[0] for line in self._ready.values() if line]

    def next_due(self) -> float:
        """When a call that was put off is due."""
        return self._later[0][0] if self._later else math.inf

    def take(self, model: str) -> PendingCall:
        """Take out the call that is next for a model, to launch it."""
        work = self._ready[model].popleft()
        work.tries += 1
        return work

    def again(self, work: PendingCall) -> None:
        """Put back a call, behind the others."""
        self._line(work).append(work)

    def put_off(self, work: PendingCall, until: float) -> None:
        heapq.heappush(self._later, (until, next(self._order), work))

    def _line(self, work: PendingCall) -> deque[PendingCall]:
        return self._ready.setdefault(work.request.model, deque())

    def free(self, work: PendingCall) -> list[Waiter]:
        """`work` has come to its end; gives what has waited for it."""
        if self._lookers:
            self._freed.add(work.open.key)
        return self._waiting.pop(work.open.key)
