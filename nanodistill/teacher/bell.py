"""Wakes whoever waits at the moment; a ring that nobody waits for is lost."""

from __future__ import annotations

import math

import anyio


class Bell:
    """For tasks that look at the state of things, and wait for a change only if it does not do."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def ring(self) -> None:
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
