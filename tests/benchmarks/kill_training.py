"""Kills a training run N times at random instants and compares what it becomes, to the bit.

    python tests/benchmarks/kill_training.py [20] [--seed 7] [--longest 6]

A tiny student is trained with dropout, a cosine schedule with warm-up, and
accumulation. Each command is killed in one of the ways of tests/training/killing.py,
by turns, at a random instant, and run again, until N kills are done and the last
run has ended; then the adapters' bytes and every recorded loss are compared with
those of a run that nobody disturbed.

A child that is killed alone, its command alive, looks like one that ran out of
memory: the supervisor goes on with half the batch, which trains the same updates
and rounds otherwise (and draws dropout otherwise, so here there is none). That is
done N / 4 times besides, and the largest difference of the weights told.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load
from training.killing import (
    ENDINGS,
    WAYS,
    adapter,
    family,
    is_over,
    start,
    told_once,
)
from training.tiny import make_student


def soak(student: Path, undisturbed: Path, folder: Path, asked: argparse.Namespace) -> bool:
    """Whether all runs were equal; says how many kills there were of each kind."""
    chance = random.Random(asked.seed)
    kills: Counter[str] = Counter()
    equal = runs = 0
    while kills.total() < asked.kills:
        runs += 1
        output = folder / str(runs)
        while not is_over(command := start(student, output), chance.uniform(0.3, asked.longest)):
            way = WAYS[kills.total() % len(WAYS)]
            way(command, chance)
            if command.wait() not in ENDINGS:
                print(f"  {way.__name__}: the command ended with {command.returncode}")
                return False
            kills[way.__name__] += 1
        same = command.returncode == 0 and adapter(output) == adapter(undisturbed)
        equal += same and told_once(output) == told_once(undisturbed)
    for name, count in kills.items():
        print(f"  {name.replace('_', ' '):22} {count:4} times")
    print(f"{kills.total()} kills in {runs} runs; {equal} of {runs} ended equal to the bit")
    return equal == runs


def child_alone(student: Path, _: Path, folder: Path, asked: argparse.Namespace) -> bool:
    """Whether the command itself went on each time."""
    undisturbed = folder / "undisturbed-without-dropout"
    start(student, undisturbed, "0").wait()
    chance = random.Random(asked.seed)
    kills = runs = 0
    apart = 0.0
    while kills < asked.kills // 4:
        runs += 1
        output = folder / f"alone-{runs}"
        command = start(student, output, "0")
        while not is_over(command, chance.uniform(2.5, asked.longest)):
            for process in family(command)[:1]:
                process.kill()
                kills += 1
        if command.returncode:
            print(f"the command ended with {command.returncode} after its child was killed")
            return False
        apart = max(apart, difference(adapter(output), adapter(undisturbed)))
    print(
        f"{kills} times the child alone in {runs} runs; each went on by itself, "
        f"largest difference of a weight {apart:.1e}"
    )
    return True


def difference(one: bytes, other: bytes) -> float:
    ours, theirs = load(one), load(other)
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--seed", default="7")
    parser.add_argument("--longest", type=float, default=6.0, help="seconds before a kill")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        student, undisturbed = make_student(folder / "student"), folder / "undisturbed"
        since = time.monotonic()
        if start(student, undisturbed).wait():
            sys.exit("the undisturbed run did not end")
        print(f"an undisturbed run takes {time.monotonic() - since:.1f} s")
        held = [work(student, undisturbed, folder, asked) for work in (soak, child_alone)]
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
