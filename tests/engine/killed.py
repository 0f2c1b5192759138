"""Runs the engine in child processes and kills them, again and again, until one gets through.

    python tests/engine/killed.py FOLDER KILLS SEED

The parent forks a child for each try, kills it after a random time (SIGKILL), and looks at the
journal that is left. The child settles `CALLS` requests of a teacher that answers by a hash of
what it is asked, well, malformed, cut off or refusing, and writes each call to a file as it
begins. Prints a JSON object: what was asked in each try, what was committed before it, the
outcomes in the end. One try in three is killed in a time from its start, the others from their
first call.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import anyio

sys.path[:0] = [str(Path(__file__).parents[1])]

from engine.running import requests_for, running  # noqa: E402
from nanodistill.engine.response_validation import Answer  # noqa: E402
from nanodistill.errors import RequestRejectedError  # noqa: E402
from nanodistill.journal import read_journal  # noqa: E402
from nanodistill.providers.base import Reply  # noqa: E402
from nanodistill.types import Completion, Request, Usage  # noqa: E402

CALLS = 250
TOGETHER = 8
LONGEST_LIFE = 0.1
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Teacher:
    """Answers by a hash of the request, and writes down what it is asked."""

    endpoint = "killed"

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def complete(self, request: Request) -> Reply:
        os.write(self._log, f"{request.key}\n".encode())
        chance = int(sha256(request.key.encode()).hexdigest(), 16)
        await anyio.sleep(0.001 + chance % 7 / 1000)
        if chance % 20 == 0:
            raise RequestRejectedError("refusal", "I will not.")
        if chance % 20 == 1:
            return Reply(Completion('{"n": 1', "length", Usage(5, 100)))
        text = f"no JSON {chance}" if chance % 20 < 5 else json.dumps({"n": chance % 1000})
        return Reply(Completion(text, "stop", Usage(5, 9)))

    async def aclose(self) -> None:
        """Nothing to close."""


async def complete_all(folder: Path, log: Path) -> list[Any]:
    async with running(folder, Teacher(log), max_concurrency=TOGETHER) as teacher:
        requests = requests_for(teacher, map(str, range(CALLS)), schema=SCHEMA)
        await teacher.complete_all(requests)
        return [
            [outcome.data if isinstance(outcome, Answer) else outcome.kind, outcome.keys]
            for outcome in teacher.results(requests)
        ]


def committed(folder: Path) -> set[str]:
    path = folder / "journal.sqlite"
    if not path.exists():
        return set()
    with read_journal(path) as journal:
        return {made.key for made in journal.attempts() if journal.responses([made.key])}


def one_try(folder: Path, log: Path, life: float, *, from_first_call: bool) -> bool:
    """Let a child work on the run for `life` seconds. Whether it got through."""
    child = os.fork()
    if child == 0:
        anyio.run(functools.partial(complete_all, folder, log))
        os._exit(0)
    ends = None if from_first_call else time.monotonic() + life
    while ends is None or time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        if ends is None and log.exists() and log.stat().st_size:
            ends = time.monotonic() + life
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(folder: Path, kills: int, seed: int) -> None:
    random, tries = Random(seed), []
    anyio.run(complete_all, folder.with_name("warm"), folder.with_name("warm.log"))
    for number in range(kills + 1):
        log = folder.with_name(f"{folder.name}-{number}.log")
        before = committed(folder)
        life = random.uniform(0, LONGEST_LIFE) if number < kills else 120.0
        through = one_try(folder, log, life, from_first_call=number % 3 != 0)
        asked = log.read_text().split() if log.exists() else []
        tries.append({"committed": sorted(before), "asked": asked, "through": through})
        if through:
            break
    results = anyio.run(complete_all, folder, folder.with_name(f"{folder.name}-after.log"))
    after = folder.with_name(f"{folder.name}-after.log").read_text().split()
    sys.stdout.write(json.dumps({"tries": tries, "outcomes": results, "after": after}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
