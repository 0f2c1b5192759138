"""serve(): load the student, listen, shut down cleanly.

After SIGTERM, Ctrl-C or a closed terminal the server takes no new connections,
`/health` says so, running requests have `Limits.grace` seconds to end, and the model is
released. A second signal ends everything at once; while the model is loading, the
first one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import anyio
from aiohttp import web

from nanodistill.errors import InputError, RunInterruptedError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.models.generation import Generator
from nanodistill.serve.app import Callers, Limits, Service, is_loopback
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
# Checks of idle connections within `header_seconds`: one is closed at most a quarter late.
CHECKS = 4
# For telling the clients whose requests the end of the grace cuts; some read slowly. Less loses
# those messages, more delays the exit for a client that reads nothing.
SECONDS_TO_TELL = 5.0


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
    """Serve the student until SIGTERM, SIGHUP or Ctrl-C.

    Args:
        port: 0 takes any free one; a notice tells which.
        api_key: required of every request except to /health; None requires none.
        allowed_hosts: host names that callers may use besides the address itself.

    Returns:
        The number of requests answered.

    Raises:
        InputError: there is nothing to serve, or the address can't be used.
        RunInterruptedError: a signal came before the server was listening, or a second one during
            shutdown.
    """
    signals = _Signals()

    async def until_signal() -> int:
        with signals.delivered_to_this_loop():
            serving = asyncio.create_task(
                serve_async(
                    config, run, stop=signals.stop, host=host, port=port, api_key=api_key,
                    allowed_hosts=allowed_hosts, limits=limits, on_event=on_event,
                    ready=signals.set_ready,
                )
            )  # fmt: skip
            second_signal = asyncio.create_task(signals.exit_now.wait())
            await asyncio.wait({serving, second_signal}, return_when=asyncio.FIRST_COMPLETED)
            second_signal.cancel()
            if not serving.done():
                serving.cancel()
                await asyncio.wait({serving})
            if serving.cancelled():
                raise RunInterruptedError("Interrupted: the server was stopped at once.")
            served = serving.result()
            if not signals.is_ready:
                raise RunInterruptedError("Interrupted before the server was listening.")
            return served

    with signals.handled():
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
    """`serve` inside a running event loop, until `stop` is set.

    `ready` is called with the URL once the server is listening. Returns 0, without having
    listened, if `stop` is set while the model is loading.
    """
    limits = limits or Limits(batch=config.eval_batch_size)
    if api_key is None and not is_loopback(host):
        warning = f"{host} can be reached from other machines, and no API key is set"
        on_event(Notice(warning, "warning"))

    def load() -> tuple[ServedModel, LoadedModel]:
        model = find_served_model(config, run, on_event)
        return model, model.load(on_event)

    loading = await _unless_stopped(stop, load)
    if loading is None:
        return 0
    model, loaded = loading
    async with Generator(loaded, max_batch=limits.batch) as generator:
        completions = await anyio.to_thread.run_sync(
            functools.partial(Completions, model, generator, schema_seconds=limits.schema_seconds)
        )
        service = Service(model, completions, limits, on_event)
        runner = web.AppRunner(
            service.app(api_key, Callers.of(host, api_key, allowed_hosts)),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=limits.grace + SECONDS_TO_TELL,
        )
        await runner.setup()
        try:
            url = await _listen(runner, host, port)
            on_event(Notice(f"serving {model.name} ({model.description}) at {url}/v1"))
            ready(url)
            async with _closing_idle_connections(runner, service, limits.header_seconds):
                await stop.wait()
            service.drain()
            on_event(Notice(f"stopping; {service.queue.in_flight} requests in flight"))
        finally:
            await runner.cleanup()
    return service.queue.served


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    """Start listening; the URL."""
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        raise InputError(
            f"cannot listen on {host}:{port}: {error.strerror or error}.",
            next_step="Choose another port: --port 8081" if is_taken else None,
        ) from error
    address, bound_port = runner.addresses[0][:2]
    return (
        f"http://[{address}]:{bound_port}" if ":" in address else f"http://{address}:{bound_port}"
    )


async def _unless_stopped(stop: asyncio.Event, work: Callable[[], T]) -> T | None:
    """The result of `work`, run in a thread; None as soon as `stop` is set, abandoning `work`."""
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
async def _closing_idle_connections(
    runner: web.AppRunner, service: Service, seconds: float
) -> AsyncIterator[None]:
    """Close connections without a request after `seconds`. aiohttp waits for headers forever."""

    async def check_repeatedly() -> None:
        idle_since: dict[RequestHandler, float] = {}
        while True:
            await asyncio.sleep(seconds / CHECKS)
            now = anyio.current_time()
            connections = runner.server.connections if runner.server is not None else []
            idle = [each for each in connections if each not in service.busy]
            idle_since = {each: idle_since.get(each, now) for each in idle}
            for connection, since in idle_since.items():
                if now - since >= seconds:
                    connection.force_close()

    checking = asyncio.create_task(check_repeatedly())
    try:
        yield
    finally:
        checking.cancel()
        await asyncio.wait({checking})


@dataclass
class _Signals:
    """The first signal sets `stop`, the second `exit_now`."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    exit_now: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0
    is_ready: bool = False
    loop: asyncio.AbstractEventLoop | None = None

    def set_ready(self, _url: str) -> None:
        self.is_ready = True

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals until the block ends. What the caller ignores stays ignored."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    @contextlib.contextmanager
    def delivered_to_this_loop(self) -> Iterator[None]:
        """Set the events in the running loop, also for signals that came before it ran."""
        self.loop = asyncio.get_running_loop()
        self._deliver()
        try:
            yield
        finally:
            self.loop = None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        if self.count:
            self.stop.set()
        if self.count > 1:
            self.exit_now.set()
