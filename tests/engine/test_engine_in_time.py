"""The engine on trio's virtual time: hours of limits, waits and outages in a moment."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from engine.running import inline, requests_for, running, told
from engine.simulation import Open, Server, Windowed
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.errors import (
    BudgetExceededError,
    RunInterruptedError,
    TeacherUnavailableError,
    TransientError,
)
from nanodistill.journal import read_journal
from nanodistill.providers.base import Reply
from nanodistill.types import Completion, Request, Usage

pytestmark = pytest.mark.anyio

TEXTS = [f"text {n}" for n in range(60)]
DOWN = TransientError("connection", "connection refused")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Remote:
    """A provider behind a simulated server. `fault` may fail a request at a time."""

    endpoint = "remote"

    def __init__(
        self,
        server: Server | None = None,
        fault: Callable[[str, int, float], Exception | None] = lambda *_: None,
    ) -> None:
        self._server = server or Open(latency=0.1)
        self._fault = fault
        self.asked: list[tuple[float, str]] = []
        self.counts: Counter[str] = Counter()
        self.answers: list[float] = []
        self.in_flight = self.peak = 0

    async def complete(self, request: Request) -> Reply:
        text, now = request.messages[-1]["content"], anyio.current_time()
        self.asked.append((now, text))
        self.counts[text] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            return await self._answer(text, now)
        finally:
            self.in_flight -= 1

    async def _answer(self, text: str, now: float) -> Reply:
        error = self._fault(text, self.counts[text], now)
        if error is not None:
            await anyio.sleep(0.01)
            raise error
        verdict = self._server.arrive(now)
        await anyio.sleep(verdict.latency)
        if verdict.error is not None:
            raise verdict.error
        self._server.leave(anyio.current_time())
        self.answers.append(now)
        return Reply(Completion(text.upper(), "stop", Usage(10, 10)))

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_ten_a_second_end_to_end(tmp_path: Path) -> None:
    remote = Remote(Windowed(latency=0.05))
    async with running(tmp_path, remote, offload=inline) as teacher:
        requests = requests_for(teacher, [f"text {n}" for n in range(300)])
        began = anyio.current_time()
        await teacher.complete_all(requests)
        assert "<" not in "".join(told(teacher.results(requests)))
        assert 300 / (anyio.current_time() - began) > 9.5
        assert teacher.account.refused < 6
        assert teacher.account.retried == teacher.account.refused


async def test_sustained_refusal_stops_the_run_with_a_plain_message(tmp_path: Path) -> None:
    def refuse(text: str, nth: int, now: float) -> Exception | None:
        return (
            TransientError("rate_limit", "quota", status=429, retry_after=1.0) if now > 5 else None
        )

    remote = Remote(fault=refuse)
    await anyio.sleep(4)
    async with running(tmp_path, remote, offload=inline, max_concurrency=20) as teacher:
        with pytest.raises(TeacherUnavailableError, match="HTTP 429, rate_limit: quota") as stopped:
            await teacher.complete_all(requests_for(teacher, [f"text {n}" for n in range(2000)]))
        assert teacher.account.refused < 50
    assert anyio.current_time() < 150
    assert "all answers so far are safe" in str(stopped.value)


async def test_a_provider_that_is_not_there_is_told_soon(tmp_path: Path) -> None:
    remote = Remote(fault=lambda *_: DOWN)
    async with running(tmp_path, remote, offload=inline) as teacher:
        began = anyio.current_time()
        with pytest.raises(TeacherUnavailableError, match="connection refused"):
            await teacher.complete_all(requests_for(teacher, TEXTS))
        assert anyio.current_time() - began < 10
    assert len(remote.asked) == 4


async def test_an_outage_loses_no_row(tmp_path: Path) -> None:
    remote = Remote(fault=lambda _, __, now: DOWN if 2 < now < 40 else None)
    async with running(tmp_path, remote, offload=inline, max_retries=1) as teacher:
        texts = [f"text {n}" for n in range(1500)]
        requests = requests_for(teacher, texts)
        await teacher.complete_all(requests)
        assert told(teacher.results(requests)) == [text.upper() for text in texts]
        assert teacher.account.retried < 250
    assert sum(2 < at < 40 for at, _ in remote.asked) < 250


async def test_waiting_to_retry_holds_no_slot(tmp_path: Path) -> None:
    """One slot: while a failed call waits for its turn, all the others are answered."""

    def slow(text: str, nth: int, now: float) -> Exception | None:
        failing = text == "text 3" and nth <= 3
        return (
            TransientError("server_error", "boom", status=500, retry_after=100.0)
            if failing
            else None
        )

    remote = Remote(fault=slow)
    async with running(tmp_path, remote, offload=inline, max_concurrency=1) as teacher:
        requests = requests_for(teacher, TEXTS)
        await teacher.complete_all(requests)
        assert told(teacher.results(requests))[3] == "TEXT 3"
    order = [text for _, text in remote.asked]
    assert order[-3:] == ["text 3"] * 3
    assert order[:-3] == TEXTS
    again = [at for at, text in remote.asked if text == "text 3"]
    assert all(later - at >= 100 for at, later in itertools.pairwise(again))


async def test_attempts_are_bounded(tmp_path: Path) -> None:
    def fault(text: str, nth: int, now: float) -> Exception | None:
        return TransientError("timeout", "no answer") if text == "text 3" else None

    remote = Remote(fault=fault)
    async with running(tmp_path, remote, offload=inline, max_retries=2) as teacher:
        requests = requests_for(teacher, TEXTS)
        await teacher.complete_all(requests)
        assert told(teacher.results(requests))[3] == "<timeout>"
    assert remote.counts["text 3"] == 3


async def test_a_row_that_alone_is_refused_for_ever_is_given_up(tmp_path: Path) -> None:
    def fault(text: str, nth: int, now: float) -> Exception | None:
        return TransientError("rate_limit", "no", status=429) if text == "text 3" else None

    remote = Remote(fault=fault)
    async with running(tmp_path, remote, offload=inline) as teacher:
        with pytest.raises(TeacherUnavailableError):
            await teacher.complete_all(requests_for(teacher, TEXTS))
    assert len(remote.answers) == len(TEXTS) - 1
    assert remote.counts["text 3"] < 40


async def test_draining_ends_after_ten_seconds(tmp_path: Path) -> None:
    remote, stop = Remote(Open(latency=1000.0)), StopSignal()
    quick = Remote(Open(latency=0.1))

    class Both:
        endpoint = "both"

        async def complete(self, request: Request) -> Reply:
            return await (remote if quick.answers else quick).complete(request)

        async def aclose(self) -> None:
            """Nothing to close."""

    began = anyio.current_time()

    async def complete_all() -> None:
        async with (
            running(tmp_path, Both(), offload=inline, stop=stop) as teacher,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(teacher_stops, stop, 5.0)
            await teacher.complete_all(requests_for(teacher, TEXTS))

    with pytest.raises(ExceptionGroup) as raised:
        await complete_all()
    assert raised.group_contains(RunInterruptedError)
    assert anyio.current_time() - began == pytest.approx(15.0, abs=0.5)
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["generate"].answered == 1


async def teacher_stops(stop: StopSignal, after: float) -> None:
    await anyio.sleep(after)
    stop.request()


async def test_one_call_until_the_first_answer_then_as_many_as_help(tmp_path: Path) -> None:
    remote = Remote(Open(latency=10.0))
    async with running(tmp_path, remote, offload=inline, max_concurrency=400) as teacher:
        await teacher.complete_all(requests_for(teacher, [f"text {n}" for n in range(1500)]))
    times = [at for at, _ in remote.asked]
    assert times[1] - times[0] >= 10.0
    assert remote.peak == 400


async def test_requests_per_minute_end_to_end(tmp_path: Path) -> None:
    remote = Remote(Open(latency=2.0))
    async with running(tmp_path, remote, offload=inline, requests_per_minute=60) as teacher:
        await teacher.complete_all(requests_for(teacher, [f"text {n}" for n in range(200)]))
    times = [at for at, _ in remote.asked]
    assert all(times[n + 60] - times[n] > 60 for n in range(len(times) - 60))
    assert times[-1] - times[0] < 205


@pytest.mark.parametrize("throttled", ["judge", "teacher"])
async def test_one_models_refusals_do_not_hold_up_the_other(tmp_path: Path, throttled: str) -> None:
    """A provider that lets one model's calls through slowly says nothing of another model's."""
    models = {"teacher": "openai/teacher", "judge": "openai/judge"}
    slow = Windowed(latency=0.05, most=1, span=5.0, exact=True)
    servers = {name: slow if name == throttled else Open(latency=0.05) for name in models}
    ended: dict[str, float] = {}

    class Both:
        endpoint = "both"

        async def complete(self, request: Request) -> Reply:
            name = next(name for name, model in models.items() if model == request.model)
            verdict = servers[name].arrive(anyio.current_time())
            await anyio.sleep(verdict.latency)
            if verdict.error is not None:
                raise verdict.error
            ended[name] = anyio.current_time()
            return Reply(Completion("yes", "stop", Usage(10, 10)))

        async def aclose(self) -> None:
            """Nothing to close."""

    fields: dict[str, Any] = {"teacher": models["teacher"], "judge": models["judge"]}
    async with running(tmp_path, Both(), offload=inline, **fields) as teacher:
        few, many = [f"text {n}" for n in range(8)], [f"text {n}" for n in range(20)]
        taught = requests_for(teacher, few if throttled == "teacher" else many)
        plain = requests_for(teacher, few if throttled == "judge" else many)
        judged = [replace(each, model=models["judge"]) for each in plain]
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(teacher.complete_all, taught)
            tasks.start_soon(teacher.complete_all, judged)
        free = "teacher" if throttled == "judge" else "judge"
        assert ended[free] - began < 3
        assert ended[throttled] - began > 20


async def test_a_budget_counts_calls_that_came_too_late(tmp_path: Path) -> None:
    """Nobody says what they took; the provider has worked on them all the same, run after run."""
    late = TransientError("timeout", "none within 10 s")
    asked = 0

    def fault(text: str, nth: int, now: float) -> Exception | None:
        nonlocal asked
        asked += 1
        return late if asked > 1 else None

    for _ in range(3):
        remote = Remote(fault=fault)
        async with running(
            tmp_path, remote, offload=inline, max_tokens_total=500, max_retries=20
        ) as teacher:
            requests = requests_for(teacher, ["one", "two"], params={"max_tokens": 100})
            with pytest.raises((BudgetExceededError, TeacherUnavailableError)):
                await teacher.complete_all(requests)
    assert asked <= 5
