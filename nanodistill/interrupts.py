"""Stopping work that runs in another thread, and waiting until it has stopped.

The plain functions work inside a running event loop (a notebook), and the async ones wrap blocking
work, by a thread of their own. An interrupt reaches the thread that waits, never the one that
works: without help the exception would come at once and the spending would go on behind it. So
whoever waits holds an `Interrupt`, requests it, and waits until the work has ended.

    interrupt = Interrupt()
    with interrupt.current():               # in the working thread
        with on_interrupt(stop.set): ...    # deep inside: what an interrupt means here
    interrupt.ask()                         # from any thread
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Interrupt:
    """A request to stop, from any thread: once to finish what is under way, twice to leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._listeners: list[Callable[[], object]] = []

    def ask(self) -> None:
        with self._lock:
            self._asked += 1
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let `on_interrupt` find this one, in this thread and the tasks that it starts."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @contextmanager
    def listening(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call `listener` each time this is asked; at once where it was asked already."""
        with self._lock:
            self._listeners.append(listener)
            asked = self._asked
        for _ in range(asked):
            listener()
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


_CURRENT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)


@contextmanager
def on_interrupt(listener: Callable[[], None]) -> Iterator[None]:
    """Call `listener`, from another thread, when whoever waits for this work asks it to stop."""
    interrupt = _CURRENT.get()
    if interrupt is None:
        yield
        return
    with interrupt.listening(listener):
        yield


@contextmanager
def on_interrupt_in_loop(listener: Callable[[], None]) -> Iterator[None]:
    """`on_interrupt` for work on asyncio's loop: `listener` is called in the loop's own thread."""
    interrupt = _CURRENT.get()
    if interrupt is None:
        yield
        return
    loop = asyncio.get_running_loop()
    with interrupt.listening(lambda: loop.call_soon_threadsafe(listener)):
        yield


def wait_for_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own; Ctrl-C asks it to stop and comes once it has ended.

    Raises:
        KeyboardInterrupt: it was interrupted. What it had done by then is safe.
    """
    interrupt, outcome = Interrupt(), _Outcome[T]()
    thread = threading.Thread(
        target=outcome.of, args=(interrupt, work), name="nanodistill", daemon=True
    )
    thread.start()
    interrupted = False
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            interrupted = True
            interrupt.ask()
    if interrupted:
        raise KeyboardInterrupt
    return outcome.result()


async def await_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread; a cancellation asks it to stop and goes on once it has ended."""
    interrupt, outcome = Interrupt(), _Outcome[T]()
    try:
        await anyio.to_thread.run_sync(outcome.of, interrupt, work, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        if outcome.give_up():
            raise  # it never began
        with anyio.CancelScope(shield=True):
            interrupt.ask()
            while not outcome.ended.is_set():
                try:
                    await anyio.to_thread.run_sync(outcome.ended.wait, abandon_on_cancel=True)
                except anyio.get_cancelled_exc_class():  # asyncio's own, which no scope shields
                    interrupt.ask()
        raise
    return outcome.result()


class _Outcome(Generic[T]):
    """What became of work in another thread."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._claimed = threading.Lock()
        self._value: list[T] = []
        self._error: BaseException | None = None

    def give_up(self) -> bool:
        """Whether the work had not begun. Then it never will."""
        return self._claimed.acquire(blocking=False)

    def of(self, interrupt: Interrupt, work: Callable[[], T]) -> None:
        """Do the work, in its thread."""
        if not self._claimed.acquire(blocking=False):
            return
        try:
            with interrupt.current():
                self._value.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]
