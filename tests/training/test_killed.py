"""A training run that is killed at any instant, and run again, ends as if nothing had happened.

Killed in the ways of killing.py. NANODISTILL_KILLS says how many times; for a long try see
tests/benchmarks/kill_training.py.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from training.killing import ENDINGS, WAYS, adapter, is_over, start, told_once
from training.tiny import make_student

KILLS = int(os.environ.get("NANODISTILL_KILLS", len(WAYS)))
LONGEST = 6.0
"""Seconds after which a command is killed at the latest: about what a whole run takes."""


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
            WAYS[kills % len(WAYS)](command, chance)
            assert command.wait() in ENDINGS
            kills += 1
        assert command.returncode == 0
        assert adapter(output) == adapter(undisturbed)
        assert told_once(output) == told_once(undisturbed)
