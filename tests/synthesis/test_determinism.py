"""The same answers give the same dataset: whatever order they come in, however often it stops."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill.config import DistillationConfig
from nanodistill.errors import (
    BudgetExceededError,
    FatalProviderError,
    TeacherUnavailableError,
    TransientError,
)
from nanodistill.providers.base import Reply
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.synthesis import SynthesisResult
from nanodistill.types import Request
from synthesis.runs import CHAT, config_in, run
from synthesis.writer import Writer

FAULTS: dict[str, Any] = {"repeats": 0.15, "short": 0.2, "broken": 0.1, "refuses": 0.05}
WAYS: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "structured": {"samples_per_input": 2, "check_labels": True},
}


class Shuffled:
    """Answers of another provider, in an order that has nothing to do with that of asking."""

    def __init__(self, teacher: Writer, seed: int, most: int = 10**9) -> None:
        self._inner = ScriptedProvider(teacher)
        self._dice = random.Random(seed)
        self._left = most
        self.keys: list[str] = []

    @property
    def endpoint(self) -> str:
        return self._inner.endpoint

    async def complete(self, request: Request) -> Reply:
        if self._left == 0:
            raise FatalProviderError("auth", "the key was revoked")
        self._left -= 1
        for _ in range(self._dice.randrange(20)):
            await anyio.lowlevel.checkpoint()
        self.keys.append(request.key)
        return await self._inner.complete(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def fingerprint(result: SynthesisResult) -> str:
    assert result.dataset is not None
    return result.dataset.fingerprint


def plain(config: DistillationConfig) -> str:
    return fingerprint(run(config, Writer(**FAULTS)))


@pytest.mark.parametrize("way", WAYS)
def test_order_of_arrival_and_concurrency_change_nothing(tmp_path: Path, way: str) -> None:
    expected = plain(config_in(tmp_path, **WAYS[way]))
    for concurrency in (1, 3, 50):
        config = config_in(
            tmp_path, **WAYS[way], name=f"run{concurrency}", max_concurrency=concurrency
        )
        assert fingerprint(run(config, Shuffled(Writer(**FAULTS), concurrency))) == expected


@pytest.mark.parametrize("way", WAYS)
def test_interruptions_change_nothing_and_cost_nothing(tmp_path: Path, way: str) -> None:
    expected = plain(config_in(tmp_path, **WAYS[way]))
    config = config_in(tmp_path, **WAYS[way], name="interrupted")
    keys: list[str] = []
    for attempt in range(100):
        provider = Shuffled(Writer(**FAULTS), attempt, most=13)
        try:
            result = run(config, provider)
        except TeacherUnavailableError:
            keys += provider.keys
            continue
        keys += provider.keys
        break
    assert attempt > 2
    assert fingerprint(result) == expected
    assert len(keys) == len(set(keys))


def test_a_budget_stops_it_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    expected = plain(config_in(tmp_path, **CHAT))
    with pytest.raises(BudgetExceededError) as stopped:
        run(config_in(tmp_path, **CHAT, name="capped", max_calls=25), Writer(**FAULTS))
    assert stopped.value.exit_code == 3
    assert not (tmp_path / "capped" / "datasets").exists()
    teacher = Writer(**FAULTS)
    result = run(config_in(tmp_path, **CHAT, name="capped"), teacher)
    assert fingerprint(result) == expected
    assert result.calls["made"] == len(teacher.asked)
    assert result.calls["reused"] == 25


def test_another_seed_makes_another_dataset(tmp_path: Path) -> None:
    one = plain(config_in(tmp_path, **CHAT))
    assert plain(config_in(tmp_path, **CHAT, name="other", random_seed=1)) != one


class Flaky(Shuffled):
    """Every seventh call fails, each time it is made."""

    async def complete(self, request: Request) -> Reply:
        if int(request.key, 16) % 7 == 0:
            raise TransientError("server_error", "try later")
        return await super().complete(request)


def test_a_finished_run_leaves_alone_what_it_did_without(tmp_path: Path) -> None:
    config = config_in(tmp_path, **CHAT, max_retries=0)
    first = run(config, Flaky(Writer(), 1))
    assert first.kept == 72
    assert first.failed["server_error"] > 3
    teacher = Writer()
    again = run(config, teacher)
    assert teacher.asked == []
    assert fingerprint(again) == fingerprint(first)
    assert again.failed == first.failed
    more = run(config_in(tmp_path, **CHAT, max_retries=0, augment_factor=7), teacher)
    assert more.failed == {}
    failed_before = [request for request in teacher.asked if int(request.key, 16) % 7 == 0]
    assert len(failed_before) >= first.failed["server_error"] - 2
