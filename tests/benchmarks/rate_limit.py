"""What becomes of a limit that nobody told us: 10 requests a second, 429 beyond it.

The server says Retry-After: 1 with each refusal. The first seconds, in which the limit is
found, are left out of the rate and stay in the share of refusals.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from engine.running import requests_for
from providers.opened import config_for
from providers.server import ServerProcess

from nanodistill.engine.response_validation import Answer
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.teacher import open_teacher
from nanodistill.events import ignore
from nanodistill.journal import open_journal
from nanodistill.providers.factory import open_provider

RATE = 10
FIRST_SECONDS = 10.0


@dataclass(frozen=True)
class Limited:
    """How one run against the limit went."""

    calls: int
    seconds: float
    sustained: float
    refused: float
    lost: int


async def against_a_limit(transport: str, calls: int, latency: float) -> Limited:
    """Settle `calls` calls; each answer's launch and the refusals come from the journal."""
    behaviour = {"rate": RATE, "latency": latency, "record": "nothing", "hint": "seconds"}
    with ServerProcess(**behaviour) as server, tempfile.TemporaryDirectory() as folder:
        config = config_for(server.url, transport=transport, max_concurrency=50)
        provider = open_provider(config)
        with open_journal(Path(folder) / "journal.sqlite") as journal:
            async with open_teacher(config, journal, provider, ignore, StopSignal()) as teacher:
                requests = requests_for(teacher, [f"text {n}" for n in range(calls)])
                began = time.perf_counter()
                await teacher.complete_all(requests)
                seconds = time.perf_counter() - began
                lost = sum(not isinstance(end, Answer) for end in teacher.results(requests))
            attempts = list(journal.attempts())
        await provider.aclose()
        total, refused = server.state()["total"], server.state()["refused"]
    done = sorted(made.at for made in attempts if made.outcome == "answered")
    later = [at for at in done if at > done[0] + FIRST_SECONDS]
    sustained = (len(later) - 1) / (later[-1] - later[0]) / RATE
    return Limited(calls, seconds, sustained, refused / total, lost)
