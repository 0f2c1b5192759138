"""What the tuned constants of rate limiting are worth: each at half and at double its value.

    PYTHONPATH=tests python tests/benchmarks/limit_constants.py [NAME ...]

Providers are simulated (tests/engine/simulation.py), so an hour of calls takes milliseconds and
each figure is exact. The figures:

    used       share of a limit of 10 requests a second that nobody told us, once it is found: the
               mean over 54 providers (windows, buckets, latencies, seeds), and the worst
    refused    share of requests that those providers refuse: mean and worst
    late       share used where launches arrive up to 30 ms late, and the share refused
    minute     seconds for 3,000 calls at 600 a minute; 240 s at best, as the first 600 are at once
    raised     answers a second, 5 minutes after a limit of 10 a second became 40
    lowered    answers a second, half a minute after a limit of 40 a second became 10
    queues     share of what servers with 4, 8 and 32 slots can do that queue in silence, the worst;
               and how many times their slots are in flight, the most
    batches    calls in flight, of 100 that pay on a server that batches
    too slow   share of calls that time out, of 40, where a server takes one at a time
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from random import Random
from statistics import mean
from types import ModuleType

from engine.simulation import (
    Batching,
    Bucket,
    Outcome,
    Queueing,
    Simulation,
    Slots,
    Windowed,
)  # fmt: skip

from nanodistill.engine import adaptive_concurrency, adaptive_pacer
from nanodistill.engine.rate_limiter import RateLimiter

MODULES = (adaptive_pacer, adaptive_concurrency)
LIMITS = (
    Windowed,
    partial(Windowed, fixed=True),
    partial(Windowed, exact=True),
    partial(Windowed, retry_after=None),
    partial(Bucket, size=10.0),
    partial(Bucket, size=30.0),
)


def limiter(most: int = 200) -> RateLimiter:
    return RateLimiter(most, None, None)


def figures() -> dict[str, float]:
    """Every figure, with the constants as they are now."""
    found = dict(_of_ten_a_second())
    late = [
        Simulation(
            limiter(), Windowed(latency=latency), 600, jitter=0.03, random=Random(seed)
        ).run()
        for latency in (0.1, 0.9)
        for seed in range(3)
    ]
    found["late"] = mean(_used(run, 10.0) for run in late)
    found["late refused"] = mean(run.refused for run in late)
    per_minute = Windowed(latency=0.5, most=600, span=60.0, exact=True)
    found["minute"] = Simulation(limiter(), per_minute, 3000).run().end
    found["raised"] = _after_a_change(10, 40, until=400.0, since=350.0)
    found["lowered"] = _after_a_change(40, 10, until=120.0, since=90.0)
    queues = [
        (n, Simulation(limiter(), Slots(latency=0.5, slots=n), 4000).run()) for n in (4, 8, 32)
    ]
    found["queues"] = min(len(run.answers) / run.end / (n / 0.5) for n, run in queues)
    found["queues in flight"] = max(_settled(run) / n for n, run in queues)
    found["batches"] = Simulation(limiter(100), Batching(), 4000).run().limits[-1][1]
    found["too slow"] = len(Simulation(limiter(), Queueing(), 40).run().refusals) / 40
    return found


def _of_ten_a_second() -> Iterator[tuple[str, float]]:
    runs = [
        (latency, Simulation(limiter(), make(latency=latency), 600, random=Random(seed)).run())
        for make in LIMITS
        for latency in (0.02, 0.1, 0.5)
        for seed in range(3)
    ]
    used = [_used(run, 4.0 + 20 * latency) for latency, run in runs]
    yield "used", mean(used)
    yield "used, worst", min(used)
    yield "refused", mean(run.refused for _, run in runs)
    yield "refused, worst", max(run.refused for _, run in runs)


def _used(run: Outcome, since: float) -> float:
    return run.rate(since) / 10.0 if run.end > since else 0.0


def _settled(run: Outcome) -> float:
    return mean(limit for at, limit in run.limits if at > run.end / 3)


def _after_a_change(before: int, after: int, until: float, since: float) -> float:
    server = Windowed(most=before)
    simulation = Simulation(limiter(), server, 100_000, until=60.0)
    simulation.run()
    server.most, simulation.until = after, until
    return simulation.run().rate(since)


def constants(module: ModuleType) -> dict[str, float]:
    return {
        name: value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float)
    }


def main(names: list[str]) -> None:
    today = figures()
    print(f"{'today':34}" + "  ".join(f"{name} {value:.3f}" for name, value in today.items()))
    for module in MODULES:
        for name, value in constants(module).items():
            if names and name not in names:
                continue
            for factor in (0.5, 2.0):
                changed = type(value)(value * factor) or value
                setattr(module, name, changed)
                try:
                    found = figures()
                    told = [
                        f"{what} {now:.3f} (was {today[what]:.3f})"
                        for what, now in found.items()
                        if abs(now - today[what]) > max(0.003, 0.02 * abs(today[what]))
                    ]
                except Exception as error:  # noqa: BLE001 - the finding is that it breaks
                    told = [f"breaks: {error!r}"]
                finally:
                    setattr(module, name, value)
                print(f"{name:22}{changed:<12.4g}{'; '.join(told) or 'no difference'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
