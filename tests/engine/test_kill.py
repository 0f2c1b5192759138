from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed.py")
ROOT = SCRIPT.parents[2]
KILLS = 25
MOST_UNDER_WAY = 40
"""Eight in flight, and what arrives in the milliseconds until it is committed."""


def run(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(kills), str(seed)],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("undisturbed") / "run", 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_instants(tmp_path: Path, undisturbed: dict[str, Any], seed: int) -> None:
    """Nothing committed is asked again, little else is, and the outcomes are the same."""
    killed = run(tmp_path / "run", KILLS, seed)
    assert killed["outcomes"] == undisturbed["outcomes"]
    assert killed["after"] == []
    lost = []
    for this, following in zip(killed["tries"], killed["tries"][1:], strict=False):
        assert set(this["asked"]).isdisjoint(this["committed"])
        assert set(this["committed"]) <= set(following["committed"])
        lost.append(len(set(this["asked"]) - set(following["committed"])))
    assert len(lost) > 3
    asked = sum(len(this["asked"]) for this in killed["tries"])
    wanted = len(undisturbed["tries"][0]["asked"])
    assert asked - wanted <= sum(lost)
    assert max(lost) <= MOST_UNDER_WAY


def test_every_kind_of_answer_was_among_them(undisturbed: dict[str, Any]) -> None:
    kinds = {end if isinstance(end, str) else "answer" for end, _ in undisturbed["outcomes"]}
    assert kinds >= {"answer", "refusal"}
    assert {len(keys) for _, keys in undisturbed["outcomes"]} >= {1, 2}
