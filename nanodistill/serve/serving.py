"""serve(): load the student, listen, and end cleanly.

SIGTERM, Ctrl-C or a closed terminal: no new connections, `/health` says so, requests that are
being answered may go on for `Limits.grace` seconds, then the model is given back. A second
signal, or the first one while the model is still being loaded, ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import anyio
from aiohttp import web

from nanodistill.errors import InputError, Interrupted
from nanodistill.events import Listener, Notice, silent
from nanodistill.models.generator import Generator
from nanodistill.serve.answering import Answering
from nanodistill.serve.app import Service
from nanodistill.serve.guards import ImpatientRunner
from nanodistill.serve.limits import Limits
from nanodistill.serve.served import choose

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.runfolder import RunFolder

LOOPBACK = "127.0.0.1"
PORT = 8080
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(
    config: DistillationConfig,
    run: RunFolder,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    api_key: str | None = None,
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = (),
    listen: Listener = silent,
) -> int:
    """Serve the student until SIGTERM or Ctrl-C; how many requests were answered.

    Args:
        port: 0 takes any free one, which `listen` is told.
        api_key: asked of every request but /health; None asks for none.
        allowed_hosts: names besides this machine's under which a server on loopback is asked,
            as behind a proxy. On another address every name is taken.

    Raises:
        InputError: there is nothing to serve, or the address can't be used.
        Interrupted: it was told to stop before it listened, or a second time.
    """

    async def until_signal() -> int:
        stop, listening = asyncio.Event(), asyncio.Event()
        with _signals(stop, listening):
            return await serve_async(
                config, run, stop=stop, host=host, port=port, api_key=api_key, limits=limits,
                listen=listen, ready=lambda _: listening.set(), allowed_hosts=allowed_hosts,
            )  # fmt: skip

    try:
        return asyncio.run(until_signal())
    except asyncio.CancelledError:
        raise Interrupted("stopped at once; answers on their way were broken off.") from None


async def serve_async(
    config: DistillationConfig,
    run: RunFolder,
    *,
    stop: asyncio.Event,
    host: str = LOOPBACK,
    port: int = PORT,
    api_key: str | None = None,
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = (),
    listen: Listener = silent,
    ready: Callable[[str], None] = lambda _: None,
) -> int:
    """`serve` for a running event loop, until `stop` is set. `ready` is told the URL."""
    limits = limits or Limits(batch=config.eval_batch_size)
    _warn_of_strangers(host, api_key, listen)
    choice = choose(config, run, listen)
    loaded = await anyio.to_thread.run_sync(choice.load, listen)
    async with Generator(loaded, max_batch=limits.batch) as generator:
        answering = await anyio.to_thread.run_sync(Answering, choice, generator)
        service = Service(choice, answering, limits, listen)
        hosts = allowed_hosts if is_loopback(host) or allowed_hosts else None
        runner = ImpatientRunner(
            service.app(api_key, hosts),
            header_seconds=limits.header_seconds,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=limits.grace,
        )
        await runner.setup()
        try:
            url = await _listen_on(runner, host, port)
            listen(Notice(f"serving {choice.name} ({choice.what}) at {url}/v1"))
            ready(url)
            await stop.wait()
            service.queue.draining = True
            listen(Notice(f"stopping; {service.queue.inside} requests are being answered"))
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


def _warn_of_strangers(host: str, api_key: str | None, listen: Listener) -> None:
    if api_key is None and not is_loopback(host):
        listen(
            Notice(f"{host} can be reached from other machines, and no API key is set", "warning")
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _signals(stop: asyncio.Event, listening: asyncio.Event) -> Iterator[None]:
    """The first signal sets `stop`; a second one cancels, as does one before it listens."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        if (stop.is_set() or not listening.is_set()) and task is not None:
            task.cancel()
        stop.set()

    numbers = [each for each in SIGNALS if each != signal.SIGHUP or not _is_ignored(each)]
    for each in numbers:
        loop.add_signal_handler(each, on_signal)
    try:
        yield
    finally:
        for each in numbers:
            loop.remove_signal_handler(each)


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN
