"""A training run that is killed at any instant, and run again, ends as if nothing had happened.

Killed are the command alone (its child is an orphan that has to end by itself), the child and
the command together, or the command by Ctrl-C and SIGTERM. NANODISTILL_KILLS says how many
times, for a long try.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from training.tiny import make_student

KILLS = int(os.environ.get("NANODISTILL_KILLS", "6"))
LONGEST = 6.0
"""Seconds after which a command is killed at the latest: about what a whole run takes."""
TESTS = Path(__file__).parent.parent
Command = subprocess.Popen[bytes]


def start(student: Path, output: Path) -> Command:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-m", "training.command", str(student), str(output)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    )


def adapter(output: Path) -> bytes:
    (found,) = output.glob("tiny/training/*/adapters/adapters.safetensors")
    return found.read_bytes()


def kill_both(command: Command) -> None:
    family = [psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family[1:])


def kill_command(command: Command) -> None:
    command.kill()


def interrupt(command: Command) -> None:
    command.send_signal(signal.SIGINT)


def terminate(command: Command) -> None:
    command.send_signal(signal.SIGTERM)


WAYS: list[Callable[[Command], None]] = [kill_both, kill_command, interrupt, terminate]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("killed") / "student")


@pytest.fixture(scope="module")
def undisturbed(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    assert start(student, output).wait() == 0
    return output


def test_a_killed_run_ends_as_an_undisturbed_one(
    student: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Runs are killed and started again until they end, one after another, KILLS times in all."""
    chance = random.Random(os.environ.get("NANODISTILL_KILL_SEED", "7"))
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        output = tmp_path / str(runs)
        while not is_over(command := start(student, output), chance.uniform(0.3, LONGEST)):
            WAYS[kills % len(WAYS)](command)
            assert command.wait() in (0, -signal.SIGKILL, 130, -signal.SIGTERM)
            kills += 1
        assert command.returncode == 0
        assert adapter(output) == adapter(undisturbed)
        assert told_once(output) == told_once(undisturbed)


def is_over(command: Command, seconds: float) -> bool:
    try:
        command.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def told_once(output: Path) -> list[tuple[str, int, float]]:
    """The record's losses: of each update one, whatever happened in between."""
    (metrics,) = output.glob("tiny/training/*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(r["kind"], r["update"], r["loss"]) for r in records if r["kind"] in ("train", "valid")]
