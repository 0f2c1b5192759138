"""serve(): load the student, listen, and end cleanly.

SIGTERM or Ctrl-C: no new connections, `/health` says so, requests that are being
answered may go on for `Limits.grace` seconds, then the model is given back. A
second signal ends what is left at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import anyio
from aiohttp import web

from nanodistill.errors import InputError
from nanodistill.events import Listener, Notice, silent
from nanodistill.models.generator import Generator
from nanodistill.serve.answering import Answering
from nanodistill.serve.app import Service
from nanodistill.serve.limits import Limits
from nanodistill.serve.served import choose

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.runfolder import RunFolder

LOOPBACK = "127.0.0.1"
PORT = 8080
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    config: DistillationConfig,
    run: RunFolder,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    api_key: str | None = None,
    limits: Limits | None = None,
    listen: Listener = silent,
) -> int:
    """Serve the student until SIGTERM or Ctrl-C; how many requests were answered.

    Args:
        port: 0 takes any free one, which `listen` is told.
        api_key: asked of every request but /health; None asks for none.

    Raises:
        InputError: there is nothing to serve, or the address can't be used.
    """

    async def until_signal() -> int:
        stop = asyncio.Event()
        with _signals(stop):
            return await serve_async(
                config, run, stop=stop, host=host, port=port, api_key=api_key, limits=limits,
                listen=listen,
            )  # fmt: skip

    return asyncio.run(until_signal())


async def serve_async(
    config: DistillationConfig,
    run: RunFolder,
    *,
    stop: asyncio.Event,
    host: str = LOOPBACK,
    port: int = PORT,
    api_key: str | None = None,
    limits: Limits | None = None,
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
        runner = web.AppRunner(
            service.app(api_key),
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
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal sets `stop`, a second one interrupts."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for each in SIGNALS:
        loop.add_signal_handler(each, on_signal)
    try:
        yield
    finally:
        for each in SIGNALS:
            loop.remove_signal_handler(each)
