"""Who takes part in the throughput table: bare client loops, our service, our whole stage.

Every contender asks the same server for the same JSON schema, that of a row of
`synthesize`. A bare loop sends and reads and nothing else. "service" is one `complete_all`:
limits, retries, validation, the durable journal. "stage" is all of `synthesize`,
from the seeds to the dataset version, which asks for one row a call.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
from providers.opened import config_for
from pydantic import BaseModel

from nanodistill.config import DistillationConfig
from nanodistill.curation.response_model import object_schema
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.teacher import open_teacher
from nanodistill.events import ignore
from nanodistill.journal import open_journal
from nanodistill.providers.factory import open_provider
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.structured_output import native
from nanodistill.synthesis import synthesize
from nanodistill.synthesis.task import load_task

LATENCY = 0.1
KEY = "sk-benchmark"
MODEL = "any"
THINGS = ["phone", "desk", "lamp", "pen", "car", "bus", "cup", "tree", "chair", "mouse"]
SEEDS = [
    {
        "input": f"The {thing} that I bought in week {n} broke again.",
        "output": {"reasoning": f"A {thing} that breaks is for repairs.", "queue": f"q{n}"},
    }
    for n, thing in enumerate(THINGS)
]


class Ticket(BaseModel):
    """What a row's output looks like; the field `reasoning` makes generation bring it too."""

    reasoning: str
    queue: str


@dataclass(frozen=True)
class Took:
    """What some calls took: seconds, and this process's CPU seconds where it is ours."""

    calls: int
    seconds: float
    cpu: float | None

    @property
    def speed(self) -> float:
        return self.calls / self.seconds


Measure = Callable[[str, int, int], Awaitable[Took]]
"""From a server's url, calls at once and calls, to what they took."""
Run = Callable[[int], Awaitable[None]]


def rows_config(url: str, folder: Path, **fields: Any) -> DistillationConfig:
    """A run of `synthesize` that asks for one row a call and nothing else."""
    return config_for(
        url,
        seed=SEEDS,
        instruction="Sort the customers' tickets into queues.",
        response_model=Ticket,
        examples_per_call=1,
        extract_policy=False,
        check_seeds=False,
        recheck="none",
        output_dir=folder,
        **fields,
    )


@cache
def schema() -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        task = load_task(rows_config("http://localhost", Path(folder)), ignore)
        return object_schema({"examples": {"type": "array", "items": task.row_schema}})


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
    form = native(schema())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(number: int) -> None:
            body = {"model": MODEL, "messages": prompt(number), "response_format": form}
            async with session.post(
                f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
            ) as response:
                await response.json()

        yield lambda calls: in_parallel(call, calls, at_once)


@asynccontextmanager
async def bare_litellm(url: str, at_once: int) -> AsyncIterator[Run]:
    litellm, form = load_litellm(), native(schema())

    async def call(number: int) -> None:
        await litellm.acompletion(
            model=f"openai/{MODEL}",
            api_base=url,
            api_key=KEY,
            messages=prompt(number),
            response_format=form,
        )

    yield lambda calls: in_parallel(call, calls, at_once)


def service(transport: str) -> Callable[[str, int], AbstractAsyncContextManager[Run]]:
    @asynccontextmanager
    async def contender(url: str, at_once: int) -> AsyncIterator[Run]:
        config = config_for(url, transport=transport, max_concurrency=at_once)
        ours = open_provider(config)
        asked = 0
        with (
            tempfile.TemporaryDirectory() as folder,
            open_journal(Path(folder) / "journal.sqlite") as journal,
        ):
            async with open_teacher(config, journal, ours, ignore, StopSignal()) as teacher:

                async def run(calls: int) -> None:
                    nonlocal asked
                    numbers = range(asked, asked + calls)
                    asked += calls
                    await teacher.complete_all(
                        teacher.request("bench", prompt(number), schema=schema())  # type: ignore[arg-type]
                        for number in numbers
                    )

                yield run
        await ours.aclose()

    return contender


def warmed(contender: Callable[[str, int], AbstractAsyncContextManager[Run]]) -> Measure:
    """Measures a contender that is under way already."""

    async def measure(url: str, at_once: int, calls: int) -> Took:
        async with contender(url, at_once) as run:
            await run(3 * at_once)
            began, busy = time.perf_counter(), time.process_time()
            await run(calls)
            return Took(calls, time.perf_counter() - began, time.process_time() - busy)

    return measure


def stage(transport: str) -> Measure:
    """Measures `synthesize` from its first line to its last: ramp, rounds, curation, version."""

    async def measure(url: str, at_once: int, calls: int) -> Took:
        with tempfile.TemporaryDirectory() as folder:
            config = rows_config(
                url,
                Path(folder),
                augment_factor=max(2, calls // len(SEEDS)),
                max_concurrency=at_once,
                transport=transport,
            )
            began, busy = time.perf_counter(), time.process_time()
            made = (await synthesize(config)).calls["made"]
            return Took(made, time.perf_counter() - began, time.process_time() - busy)

    return measure
