"""How a person stops a run: once to finish what is under way, twice to leave now.

    stop = StopSignal()
    async with stop.on_signals():       # Ctrl-C and SIGTERM, in the main thread
        ...

After the first call of `request` nothing is launched any more and calls in
flight have `DRAIN_SECONDS` to come back; after the second they are given up.
What was committed is safe either way.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

DRAIN_SECONDS = 10.0
"""Most answers on their way are paid for and arrive within these; who can't wait asks a second
time."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what a system sends that shuts down, and a closed terminal."""


class StopSignal:
    """What a person asked for so far. Use it from the event loop's own thread."""

    def __init__(self) -> None:
        self._requested = anyio.Event()
        self._leave = anyio.Event()

    @property
    def is_requested(self) -> bool:
        return self._requested.is_set()

    @property
    def is_leaving(self) -> bool:
        return self._leave.is_set()

    def request(self) -> None:
        """Stop launching; asked a second time, leave now."""
        if self.is_requested:
            self._leave.set()
        self._requested.set()

    async def requested(self) -> None:
        """Return once stopping is asked for."""
        await self._requested.wait()

    async def leaving(self) -> None:
        """Return once leaving is asked for."""
        await self._leave.wait()

    @asynccontextmanager
    async def on_signals(self) -> AsyncIterator[None]:
        """Let Ctrl-C and SIGTERM mean `request` while this is open, and then what they did."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        if before[signal.SIGHUP] == signal.SIG_IGN:
            del before[signal.SIGHUP]  # nohup
        try:
            async with self._listening(*before):
                yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    @asynccontextmanager
    async def _listening(self, *numbers: signal.Signals) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(*numbers) as signals:

                async def on_event() -> None:
                    async for number in signals:
                        if number != signal.SIGINT and self.is_requested:
                            continue
                        self.request()

                tasks.start_soon(on_event)
                yield
                tasks.cancel_scope.cancel()
