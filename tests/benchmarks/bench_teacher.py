"""The teacher service side by side with bare clients and a peer, against a server of its own.

    PYTHONPATH=tests python tests/benchmarks/bench_teacher.py [--peers] [--only throughput …]

Three tables. Throughput: the server answers after 100 ms, so that the latency itself allows
10 calls a second for each one at once; contenders take turns, the median of each counts, and
what goes through LiteLLM makes fewer calls where that would take minutes. CPU is this process's,
for one call. Rate limit: see `rate_limit`. Memory: see `hundred_thousand`. `--peers` installs
curator in an environment of its own under `--cache`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from providers.server import ServerProcess

from benchmarks.contenders import (
    LATENCY,
    Measure,
    Took,
    bare_aiohttp,
    bare_litellm,
    service,
    stage,
    warmed,
)
from benchmarks.peers import curator_python, run_curator
from benchmarks.rate_limit import FIRST_SECONDS, RATE, against_a_limit
from nanodistill.providers.lazy_imports import load_litellm

TABLES = ("throughput", "rate-limit", "memory")
AIOHTTP, LITELLM = "aiohttp, bare", "litellm.acompletion, bare"
MOST_THROUGH_LITELLM = 2000


@dataclass(frozen=True)
class Contender:
    """A line of the table. `reference` is the bare loop that it is held against."""

    measure: Measure
    reference: str
    is_slow: bool = False


CONTENDERS = {
    AIOHTTP: Contender(warmed(bare_aiohttp), AIOHTTP),
    "direct: service": Contender(warmed(service("auto")), AIOHTTP),
    "direct: whole stage": Contender(stage("auto"), AIOHTTP),
    LITELLM: Contender(warmed(bare_litellm), LITELLM, is_slow=True),
    "through LiteLLM: service": Contender(warmed(service("litellm")), LITELLM, is_slow=True),
    "through LiteLLM: whole stage": Contender(stage("litellm"), LITELLM, is_slow=True),
}


def with_curator(python: Path | None) -> dict[str, Contender]:
    if python is None:
        return CONTENDERS

    def by(backend: str) -> Measure:
        async def measure(url: str, at_once: int, calls: int) -> Took:
            seconds = await asyncio.to_thread(run_curator, python, backend, url, at_once, calls)
            return Took(calls, seconds, None)

        return measure

    return CONTENDERS | {
        "curator, its OpenAI client": Contender(by("openai"), AIOHTTP, is_slow=True),
        "curator, through LiteLLM": Contender(by("litellm"), LITELLM, is_slow=True),
    }


async def throughput(contenders: Mapping[str, Contender], given: argparse.Namespace) -> None:
    with ServerProcess(latency=LATENCY, record="nothing", items=1) as server:
        for at_once in given.at:
            found: dict[str, list[Took]] = {name: [] for name in contenders}
            for _ in range(given.rounds):
                for name, contender in contenders.items():
                    calls = given.calls
                    if contender.is_slow:
                        calls = min(calls, MOST_THROUGH_LITELLM)
                    found[name].append(await contender.measure(server.url, at_once, calls))
            show_throughput(contenders, found, at_once)


def show_throughput(
    contenders: Mapping[str, Contender], found: Mapping[str, list[Took]], at_once: int
) -> None:
    speed = {name: statistics.median(took.speed for took in all) for name, all in found.items()}
    sys.stdout.write(f"\n{at_once} at once: the latency allows {at_once / LATENCY:,.0f} calls/s\n")
    for name, contender in contenders.items():
        share = speed[name] / speed[contender.reference]
        known = [1000 * took.cpu / took.calls for took in found[name] if took.cpu is not None]
        cpu = f"{statistics.median(known):7.2f} ms CPU" if known else " " * 14
        sys.stdout.write(
            f"  {name:29}{speed[name]:7.0f} calls/s{cpu}{share:7.2f} of {contender.reference}"
            f"  ({found[name][0].calls:,} calls)\n"
        )
    sys.stdout.flush()


async def rate_limit(given: argparse.Namespace) -> None:
    sys.stdout.write(
        f"\n{RATE} requests a second, 429 with Retry-After: 1 beyond; "
        f"sustained after the first {FIRST_SECONDS:.0f} s\n"
    )
    for transport in ("auto", "litellm"):
        for latency in (0.1, 1.0):
            run = await against_a_limit(transport, given.limited_calls, latency)
            sys.stdout.write(
                f"  {'direct' if transport == 'auto' else 'through LiteLLM':16}"
                f"{latency:4.1f} s latency: {run.sustained:6.1%} of the limit sustained, "
                f"{run.refused:5.1%} of the requests refused, {run.lost} rows lost "
                f"({run.calls:,} calls in {run.seconds:.0f} s)\n"
            )
            sys.stdout.flush()


def memory(given: argparse.Namespace) -> None:
    script = Path(__file__).with_name("hundred_thousand.py")
    sys.stdout.write(f"\n{given.planned:,} calls planned, half of them done, then the rest\n")
    sys.stdout.flush()
    subprocess.run([sys.executable, script, "--calls", str(given.planned)], check=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TABLES, nargs="+", default=TABLES)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--at", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limited-calls", type=int, default=300)
    parser.add_argument("--planned", type=int, default=100_000)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/nanodistill/peers")
    given = parser.parse_args()
    if "throughput" in given.only:
        python, says = curator_python(given.cache, install=given.peers)
        sys.stdout.write(f"curator {says}\n")
        await throughput(with_curator(python), given)
    if "rate-limit" in given.only:
        await rate_limit(given)
    if "memory" in given.only:
        memory(given)
    await load_litellm().close_litellm_async_clients()


if __name__ == "__main__":
    asyncio.run(main())
