"""serve(): load the student, listen, and end cleanly.

SIGTERM, Ctrl-C or a closed terminal: no new connections, `/health` says so, requests
that are being answered may go on for `Limits.grace` seconds, then the model is given
back. A second signal ends what is left at once, and so does the first one while the
model is still being loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import anyio
from aiohttp import web

from nanodistill.errors import InputError, RunInterruptedError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.models.generator import Generator
from nanodistill.serve.app import Callers, Limits, Service
from nanodistill.serve.completions import Completions
from nanodistill.serve.served_model import find_served_model

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from nanodistill.config import DistillationConfig
    from nanodistill.models.loading import LoadedModel
    from nanodistill.run_dir import RunFolder
    from nanodistill.serve.served_model import ServedModel

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
PORT = 8080
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_TELL = 5.0
"""After the grace, for requests that it ends to say so: a client may read slowly."""
SWEEPS = 4
"""How often, in the time that headers may take, connections are looked through."""


def serve(
    config: DistillationConfig,
    run: RunFolder,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    api_key: str | None = None,
    allowed_hosts: Sequence[str] = (),
    limits: Limits | None = None,
    on_event: Listener = ignore,
) -> int:
    """Serve the student until SIGTERM, SIGHUP or Ctrl-C; how many requests were answered.

    Args:
        port: 0 takes any free one, which `on_event` is told.
        api_key: asked of every request but /health; None asks for none.
        allowed_hosts: names by which others may call the server, beside the address itself.

    Raises:
        InputError: there is nothing to serve, or the address can't be used.
        RunInterruptedError: a signal came before the server listened, or a second one while it
            ended.
    """
    asked = _Asked()

    async def until_signal() -> int:
        with asked.heard_here():
            serving = asyncio.create_task(
                serve_async(
                    config, run, stop=asked.stop, host=host, port=port, api_key=api_key,
                    allowed_hosts=allowed_hosts, limits=limits, on_event=on_event,
                    ready=asked.be_ready,
                )
            )  # fmt: skip
            leaving = asyncio.create_task(asked.leave.wait())
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if not serving.done():
                serving.cancel()
                await asyncio.wait({serving})
            if serving.cancelled() or not asked.ready:
                if not serving.cancelled():
                    serving.result()
                raise RunInterruptedError("Interrupted: the server has ended at once.")
            return serving.result()

    with _signals(asked):
        return asyncio.run(until_signal())


async def serve_async(
    config: DistillationConfig,
    run: RunFolder,
    *,
    stop: asyncio.Event,
    host: str = LOOPBACK,
    port: int = PORT,
    api_key: str | None = None,
    allowed_hosts: Sequence[str] = (),
    limits: Limits | None = None,
    on_event: Listener = ignore,
    ready: Callable[[str], None] = lambda _: None,
) -> int:
    """`serve` for a running event loop, until `stop` is set. `ready` is told the URL.

    0, without having listened, if `stop` is set while the model is being loaded.
    """
    limits = limits or Limits(batch=config.eval_batch_size)
    _warn_of_strangers(host, api_key, on_event)

    def load() -> tuple[ServedModel, LoadedModel]:
        choice = find_served_model(config, run, on_event)
        return choice, choice.load(on_event)

    found = await _unless(stop, load)
    if found is None:
        return 0
    choice, loaded = found
    async with Generator(loaded, max_batch=limits.batch) as generator:
        answering = await anyio.to_thread.run_sync(
            functools.partial(Completions, choice, generator, schema_seconds=limits.schema_seconds)
        )
        service = Service(choice, answering, limits, on_event)
        runner = web.AppRunner(
            service.app(api_key, callers_of(host, api_key, allowed_hosts)),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=limits.grace + SECONDS_TO_TELL,
        )
        await runner.setup()
        try:
            url = await _listen_on(runner, host, port)
            on_event(Notice(f"serving {choice.name} ({choice.what}) at {url}/v1"))
            ready(url)
            async with _closing_slow(runner, service, limits.header_seconds):
                await stop.wait()
            service.drain()
            on_event(Notice(f"stopping; {service.queue.inside} requests are being answered"))
        finally:
            await runner.cleanup()
    return service.queue.served


async def _listen_on(runner: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as failed:
        taken = failed.errno == errno.EADDRINUSE
        raise InputError(
            f"{host}:{port} can't be listened on: {failed.strerror or failed}.",
            next_step="Choose another port: --port 8081" if taken else None,
        ) from failed
    bound = runner.addresses[0]
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    return f"http://{shown}:{bound[1]}"


def callers_of(host: str, api_key: str | None, allowed: Sequence[str]) -> Callers:
    """Who may call a server at `host`.

    A page can lead a name of its own to this machine (DNS rebinding); its browser then sends
    that name. Where a key keeps strangers out, and no names were told, any name will do: a
    server that others reach has names that it can't know.
    """
    told = frozenset(name.lower().rstrip(".") for name in allowed)
    if "*" in told or (api_key is not None and not told and not is_loopback(host)):
        return Callers(None, told)
    own = {host.lower(), "localhost", socket.gethostname().lower()}
    return Callers(told | own, told)


def _warn_of_strangers(host: str, api_key: str | None, on_event: Listener) -> None:
    if api_key is None and not is_loopback(host):
        on_event(
            Notice(f"{host} can be reached from other machines, and no API key is set", "warning")
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _unless(stop: asyncio.Event, work: Callable[[], T]) -> T | None:
    """What `work` returns, from a thread; None as soon as `stop` is set, whatever it is at."""
    working = asyncio.create_task(anyio.to_thread.run_sync(work, abandon_on_cancel=True))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() and not stop.is_set() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait({working, stopping})


@contextlib.asynccontextmanager
async def _closing_slow(
    runner: web.AppRunner, service: Service, seconds: float
) -> AsyncIterator[None]:
    """Close connections that hold a place without a request: aiohttp waits for headers for ever."""

    async def sweep() -> None:
        since: dict[RequestHandler, float] = {}
        while True:
            await asyncio.sleep(seconds / SWEEPS)
            now = anyio.current_time()
            idle = [c for c in _connections(runner) if c not in service.busy]
            since = {connection: since.get(connection, now) for connection in idle}
            for connection, began in since.items():
                if now - began >= seconds:
                    connection.force_close()

    sweeping = asyncio.create_task(sweep())
    try:
        yield
    finally:
        sweeping.cancel()
        await asyncio.wait({sweeping})


def _connections(runner: web.AppRunner) -> list[RequestHandler]:
    return runner.server.connections if runner.server is not None else []


@dataclass
class _Asked:
    """What signals asked for: to stop, and then to leave at once."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    signals: int = 0
    ready: bool = False
    loop: asyncio.AbstractEventLoop | None = None

    def be_ready(self, _: str) -> None:
        self.ready = True

    @contextlib.contextmanager
    def heard_here(self) -> Iterator[None]:
        """Signals reach this event loop, those that came before it began too."""
        self.loop = asyncio.get_running_loop()
        self.tell()
        try:
            yield
        finally:
            self.loop = None

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.tell)

    def tell(self) -> None:
        if self.signals:
            self.stop.set()
        if self.signals > 1:
            self.leave.set()


@contextlib.contextmanager
def _signals(asked: _Asked) -> Iterator[None]:
    """Let signals tell `asked` until the event loop has ended. What is ignored stays so."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, asked.on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
