"""What keeps strangers and slow connections from a server on this machine.

A page in a browser can reach loopback. It can't read what comes back unless we allow it, but it
can point a name of its own at 127.0.0.1 (DNS rebinding) and then counts as the same origin. So on
loopback only the names of this machine are taken for a host, and a request that says which page it
comes from must come from a page of this very server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from nanodistill.serve.wire import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OF_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
END_OF_HEADERS = b"\r\n\r\n"


def host_check(allowed: Iterable[str] | None) -> Any:
    """A middleware that takes requests for these hosts alone; None takes any host's."""
    names = None if allowed is None else OF_THIS_MACHINE | {name.lower() for name in allowed}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _hostname(f"//{request.host}")
        if names is not None and host not in names:
            raise Refused(403, f"This server does not answer for the host {request.host!r}.")
        origin = request.headers.get("Origin")
        if origin is not None and not _is_same_site(origin, request.host, names):
            raise Refused(403, "This server does not answer to pages of another site.")
        return await handler(request)

    return check


def _is_same_site(origin: str, host: str, names: frozenset[str] | None) -> bool:
    name = _hostname(origin)
    return name == _hostname(f"//{host}") and (names is None or name in names)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class ImpatientRunner(web.AppRunner):
    """A runner whose connections must bring their first request's headers in time."""

    def __init__(self, app: web.Application, *, header_seconds: float, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._header_seconds = header_seconds

    @property
    def server(self) -> Any:
        """What makes a protocol for each new connection."""
        make = super().server
        return None if make is None else partial(_Impatient, make, self._header_seconds)


class _Impatient(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and closes a connection that stays silent.

    aiohttp bounds the time between requests and we that of a body; a connection that sends its
    first headers byte by byte is bounded by neither.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], seconds: float) -> None:
        self._inner = make()
        self._seconds = seconds
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)
        self._timer = asyncio.get_running_loop().call_later(self._seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._head = (self._head + data)[-len(data) - len(END_OF_HEADERS) :]
            if END_OF_HEADERS in self._head:
                self._stop_waiting()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._head = None, b""
