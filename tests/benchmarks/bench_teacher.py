"""Teacher calls per second, side by side in one run, against a server in another process.

    PYTHONPATH=tests python tests/benchmarks/bench_teacher.py [--calls 2000] [--at 50 200]

Every contender asks for the same JSON schema. "provider" is our transport alone, "stage" the
whole service on top: limits, retries, validation and the durable journal. The server answers
after 100 ms, so that the latency itself allows 10 calls a second for each one at once. Rounds
take turns, and the median of each contender counts. CPU is this process's, for one call.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from teacher.opened import SCHEMA, config_for, request
from teacher.server import ServerProcess

from nanodistill.events import silent
from nanodistill.journal import open_journal
from nanodistill.teacher.engine import open_teacher
from nanodistill.teacher.libraries import load_litellm
from nanodistill.teacher.opening import open_provider
from nanodistill.teacher.stop import StopSignal
from nanodistill.teacher.wording import native

LATENCY = 0.1
KEY = "sk-benchmark"
MODEL = "any"

Run = Callable[[int], Awaitable[None]]


def prompt(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"text number {number} of many"},
    ]


async def in_parallel(call: Callable[[int], Awaitable[Any]], calls: int, at_once: int) -> None:
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(work() for _ in range(at_once)))


@asynccontextmanager
async def bare_aiohttp(url: str, at_once: int) -> AsyncIterator[Run]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(number: int) -> None:
            body = {"model": MODEL, "messages": prompt(number), "response_format": native(SCHEMA)}
            async with session.post(
                f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
            ) as response:
                await response.json()

        yield lambda calls: in_parallel(call, calls, at_once)


@asynccontextmanager
async def bare_litellm(url: str, at_once: int) -> AsyncIterator[Run]:
    litellm = load_litellm()

    async def call(number: int) -> None:
        await litellm.acompletion(
            model=f"openai/{MODEL}",
            api_base=url,
            api_key=KEY,
            messages=prompt(number),
            response_format=native(SCHEMA),
        )

    yield lambda calls: in_parallel(call, calls, at_once)


def provider(transport: str) -> Callable[[str, int], AbstractAsyncContextManager[Run]]:
    @asynccontextmanager
    async def contender(url: str, at_once: int) -> AsyncIterator[Run]:
        ours = open_provider(config_for(url, transport=transport))

        async def call(number: int) -> None:
            await ours.complete(request(f"text number {number} of many", schema=SCHEMA))

        yield lambda calls: in_parallel(call, calls, at_once)
        await ours.aclose()

    return contender


def stage(transport: str) -> Callable[[str, int], AbstractAsyncContextManager[Run]]:
    @asynccontextmanager
    async def contender(url: str, at_once: int) -> AsyncIterator[Run]:
        config = config_for(url, transport=transport, max_concurrency=at_once)
        ours = open_provider(config)
        asked = 0
        with (
            tempfile.TemporaryDirectory() as folder,
            open_journal(Path(folder) / "journal.sqlite") as journal,
        ):
            async with open_teacher(config, journal, ours, silent, StopSignal()) as teacher:

                async def run(calls: int) -> None:
                    nonlocal asked
                    numbers = range(asked, asked + calls)
                    asked += calls
                    await teacher.settle(
                        teacher.request("bench", prompt(number), schema=SCHEMA)  # type: ignore[arg-type]
                        for number in numbers
                    )

                yield run
        await ours.aclose()

    return contender


CONTENDERS: dict[str, tuple[Callable[[str, int], AbstractAsyncContextManager[Run]], str]] = {
    "aiohttp, bare": (bare_aiohttp, "aiohttp, bare"),
    "direct: provider": (provider("auto"), "aiohttp, bare"),
    "direct: stage": (stage("auto"), "aiohttp, bare"),
    "litellm.acompletion, bare": (bare_litellm, "litellm.acompletion, bare"),
    "through LiteLLM: provider": (provider("litellm"), "litellm.acompletion, bare"),
    "through LiteLLM: stage": (stage("litellm"), "litellm.acompletion, bare"),
}
SLOW = ("litellm", "LiteLLM")


async def measure(
    contender: Callable[[str, int], AbstractAsyncContextManager[Run]],
    url: str,
    at_once: int,
    calls: int,
) -> tuple[float, float]:
    """Calls a second and CPU milliseconds a call, after a warm-up."""
    async with contender(url, at_once) as run:
        await run(3 * at_once)
        began, busy = time.perf_counter(), time.process_time()
        await run(calls)
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    return calls / seconds, cpu / calls * 1000


async def compare(url: str, at_once: int, calls: int, rounds: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, (contender, _) in CONTENDERS.items():
            few = calls // 4 if any(word in name for word in SLOW) else calls
            found[name].append(await measure(contender, url, at_once, few))
    speed = {name: statistics.median(each[0] for each in runs) for name, runs in found.items()}
    cpu = {name: statistics.median(each[1] for each in runs) for name, runs in found.items()}
    sys.stdout.write(f"\n{at_once} at once: the latency allows {at_once / LATENCY:,.0f} calls/s\n")
    for name, (_, reference) in CONTENDERS.items():
        share = speed[name] / speed[reference]
        sys.stdout.write(
            f"  {name:28}{speed[name]:8.0f} calls/s{cpu[name]:8.2f} ms CPU{share:8.2f} of bare\n"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--at", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with ServerProcess(latency=LATENCY, record="nothing") as server:
        for at_once in chosen.at:
            await compare(server.url, at_once, chosen.calls, chosen.rounds)
    await load_litellm().close_litellm_async_clients()


if __name__ == "__main__":
    asyncio.run(main())
