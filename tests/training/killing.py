"""Ways to end a training command, and what is left to compare: for a test and for a long try."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

TESTS = Path(__file__).parent.parent
Command = subprocess.Popen[bytes]


def start(student: Path, output: Path, *dropout: str) -> Command:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-m", "training.command", str(student), str(output), *dropout],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    )


def is_over(command: Command, seconds: float) -> bool:
    try:
        command.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def family(command: Command) -> list[psutil.Process]:
    """The command's children, the one that trains among them."""
    return psutil.Process(command.pid).children(recursive=True)


def command_and_child(command: Command, _: random.Random) -> None:
    children = family(command)
    command.kill()
    for process in children:
        process.kill()
    psutil.wait_procs(children)


def command_alone(command: Command, _: random.Random) -> None:
    """Its child is an orphan that has to end by itself."""
    command.kill()


def command_then_orphan(command: Command, chance: random.Random) -> None:
    """The orphan is killed while it writes its last checkpoint, or a little before or after."""
    children = family(command)
    command.kill()
    time.sleep(chance.uniform(0, 0.5))
    for process in children:
        process.kill()


def ctrl_c(command: Command, _: random.Random) -> None:
    command.send_signal(signal.SIGINT)


def ctrl_c_twice(command: Command, chance: random.Random) -> None:
    """The second one leaves at once."""
    command.send_signal(signal.SIGINT)
    time.sleep(chance.uniform(0, 0.5))
    command.send_signal(signal.SIGINT)


def sigterm(command: Command, _: random.Random) -> None:
    command.send_signal(signal.SIGTERM)


def sigterm_to_child(command: Command, _: random.Random) -> None:
    for process in family(command):
        process.terminate()


Way = Callable[[Command, random.Random], None]
WAYS: tuple[Way, ...] = (
    command_and_child,
    command_alone,
    command_then_orphan,
    ctrl_c,
    ctrl_c_twice,
    sigterm,
    sigterm_to_child,
)
ENDINGS = (0, 3, -signal.SIGKILL, 130, -signal.SIGTERM, -signal.SIGINT)


def adapter(output: Path) -> bytes:
    (found,) = output.glob("tiny/training/*/adapters/adapters.safetensors")
    return found.read_bytes()


def told_once(output: Path) -> list[tuple[str, int, float]]:
    """The record's losses: of each update one, whatever happened in between."""
    (metrics,) = output.glob("tiny/training/*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(r["kind"], r["update"], r["loss"]) for r in records if r["kind"] in ("train", "valid")]
