"""Much work, half of it done: time to the first call, speed, memory.

    python tests/benchmarks/hundred_thousand.py [--calls 100000] [--latency 0.005]

A first process settles half of the calls, a second one all of them. Both print what they saw.
The teacher is a coroutine that sleeps; journal, limits, schema check and all else are real.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from engine.running import running  # noqa: E402

from nanodistill.engine.teacher import Teacher  # noqa: E402
from nanodistill.events import Event  # noqa: E402
from nanodistill.providers.base import Reply  # noqa: E402
from nanodistill.types import Completion, Request, Usage  # noqa: E402

ROW = {"type": "object", "properties": {"input": {"type": "string"}, "output": {"type": "string"}}}
SCHEMA = {
    "type": "object",
    "properties": {"examples": {"type": "array", "items": {**ROW, "required": ["input"]}}},
    "required": ["examples"],
}
TEXT = json.dumps({"examples": [{"input": "word " * 30, "output": "label"}] * 5})


class Sleeping:
    """Answers after a while, and knows when it was first asked."""

    endpoint = "sleeping"

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self.first: float | None = None
        self.calls = 0

    async def complete(self, request: Request) -> Reply:
        self.first = self.first or time.monotonic()
        self.calls += 1
        await anyio.sleep(self._latency)
        return Reply(Completion(TEXT, "stop", Usage(500, 200)))

    async def aclose(self) -> None:
        """Nothing to close."""


def plan(teacher: Teacher, calls: int) -> Iterator[Request]:
    for n in range(calls):
        content = f"{'Write five rows about this. ' * 40}{n}"
        yield teacher.request("generate", [{"role": "user", "content": content}], schema=SCHEMA)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def peak() -> float:
    """The most memory that this process has held, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


async def complete_all(folder: Path, calls: int, latency: float) -> None:
    provider, process = Sleeping(latency), psutil.Process()
    memory: list[float] = []

    def on_event(event: Event) -> None:
        memory.append(process.memory_info().rss / 1e6)

    began, cpu = time.monotonic(), time.process_time()
    async with running(folder, provider, on_event=on_event) as teacher:
        await teacher.complete_all(plan(teacher, calls))
    took = time.monotonic() - began
    first = (provider.first or began) - began
    size = size_of(folder) / 1e6
    sys.stdout.write(
        f"  {provider.calls:,} of {calls:,} asked in {took:.1f} s ({provider.calls / took:,.0f}/s, "
        f"{1000 * (time.process_time() - cpu) / calls:.2f} ms of CPU a call); first call after "
        f"{first:.2f} s; memory {memory[0]:.0f} MB at the start, {memory[len(memory) // 2]:.0f} MB "
        f"in the middle, {peak():.0f} MB at most; journal {size:.0f} MB\n"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=100_000)
    options.add_argument("--latency", type=float, default=0.005)
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    if given.folder is not None:
        anyio.run(complete_all, given.folder, given.calls, given.latency)
        return
    with tempfile.TemporaryDirectory() as folder:
        for calls in (given.calls // 2, given.calls):
            command = [sys.executable, __file__, "--folder", folder, "--calls", str(calls)]
            subprocess.run([*command, "--latency", str(given.latency)], check=True)


if __name__ == "__main__":
    main()
