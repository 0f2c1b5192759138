"""Several settlings of one teacher at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from engine.running import requests_for, running, told
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.teacher import Teacher
from nanodistill.errors import CorruptFileError, RunInterruptedError
from nanodistill.events import Event, Progress
from nanodistill.journal import read_journal
from nanodistill.providers.base import Reply
from nanodistill.types import Completion, Request, Usage

pytestmark = pytest.mark.anyio
SLOW, QUICK = [f"slow {n}" for n in range(5)], [f"quick {n}" for n in range(40)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Remote:
    """Answers what is quick at once, and what is slow when `slow` is set."""

    endpoint = "remote"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.slow = anyio.Event()
        self._all_wait = anyio.Event()

    async def complete(self, request: Request) -> Reply:
        text = request.messages[-1]["content"]
        self.counts[text] += 1
        if text.startswith("slow"):
            if set(SLOW) <= set(self.counts):
                self._all_wait.set()
            await self.slow.wait()
        return Reply(Completion(text.upper(), "stop", Usage(1, 1)))

    async def all_wait(self) -> None:
        with anyio.fail_after(5):
            await self._all_wait.wait()

    async def aclose(self) -> None:
        """Nothing to close."""


async def complete_all(teacher: Teacher, texts: list[str], stage: str, done: list[str]) -> None:
    await teacher.complete_all(requests_for(teacher, texts, stage=stage))
    done.append(stage)


async def test_one_is_over_while_another_goes_on(tmp_path: Path) -> None:
    remote, done, events = Remote(), list[str](), list[Event]()
    async with running(tmp_path, remote, on_event=events.append) as teacher:
        await teacher.complete_all(requests_for(teacher, ["quick first"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete_all, teacher, [*SLOW, *QUICK], "slow", done)
            await remote.all_wait()
            with anyio.fail_after(5):
                await complete_all(teacher, ["quick x"], "quick", done)
            assert done == ["quick"]
            remote.slow.set()
        assert done == ["quick", "slow"]
        requests = requests_for(teacher, [*SLOW, *QUICK, "quick x"])
        assert told(teacher.results(requests)) == [t.upper() for t in [*SLOW, *QUICK, "quick x"]]
    last = {event.stage: event for event in events if isinstance(event, Progress)}
    assert {name: (event.done, event.total) for name, event in last.items()} == {
        "generate": (1, 1),
        "quick": (1, 1),
        "slow": (45, 45),
    }


async def test_settlings_of_one_stage_are_counted_together(tmp_path: Path) -> None:
    remote, done, events = Remote(), list[str](), list[Event]()
    async with running(tmp_path, remote, on_event=events.append) as teacher:
        await teacher.complete_all(requests_for(teacher, ["quick first"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete_all, teacher, SLOW, "generate", done)
            await remote.all_wait()
            await complete_all(teacher, QUICK, "generate", done)
            assert isinstance(last := events[-1], Progress)
            assert (last.done, last.total) == (len(QUICK), len(QUICK) + len(SLOW))
            remote.slow.set()


async def test_what_both_want_is_asked_once(tmp_path: Path) -> None:
    remote, done = Remote(), list[str]()
    async with running(tmp_path, remote) as teacher:
        await teacher.complete_all(requests_for(teacher, ["quick first"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete_all, teacher, SLOW, "a", done)
            await remote.all_wait()
            tasks.start_soon(complete_all, teacher, SLOW, "b", done)
            await anyio.sleep(0.05)
            remote.slow.set()
    assert done == ["a", "b"]
    assert set(remote.counts.values()) == {1}


async def test_a_stop_ends_both(tmp_path: Path) -> None:
    remote, stop, ended = Remote(), StopSignal(), list[str]()

    async def interrupted(teacher: Teacher, texts: list[str]) -> None:
        with pytest.raises(RunInterruptedError):
            await teacher.complete_all(requests_for(teacher, texts))
        ended.append(texts[0])

    async with running(tmp_path, remote, stop=stop, max_concurrency=5) as teacher:
        await teacher.complete_all(requests_for(teacher, ["quick first"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupted, teacher, SLOW)
            await remote.all_wait()
            tasks.start_soon(interrupted, teacher, QUICK)
            await anyio.sleep(0.05)
            stop.request()
            await anyio.sleep(0.05)
            assert not ended
            remote.slow.set()
    assert len(ended) == 2
    assert len(remote.counts) == 1 + len(SLOW)


async def test_what_is_wrong_with_one_is_told_by_all(tmp_path: Path) -> None:
    remote, told = Remote(), list[str]()

    async def waits(teacher: Teacher) -> None:
        with pytest.raises(CorruptFileError, match="a page") as raised:
            await teacher.complete_all(requests_for(teacher, SLOW))
        told.append(raised.value.message)

    def broken() -> Iterator[Request]:
        yield from map(refuse, ["x"])

    def refuse(text: str) -> Request:
        raise CorruptFileError(f"a page is gone, that of {text}")

    async with running(tmp_path, remote) as teacher:
        await teacher.complete_all(requests_for(teacher, ["quick first"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits, teacher)
            await remote.all_wait()
            with pytest.raises(CorruptFileError, match="a page"):
                await teacher.complete_all(broken())
            remote.slow.set()
    assert told == ["a page is gone, that of x"]


async def test_an_error_elsewhere_leaves_no_paid_call_behind(tmp_path: Path) -> None:
    """Curation of one round may fail while the next one's calls are in flight."""
    remote, done = Remote(), list[str]()

    async def answer_soon() -> None:
        await anyio.sleep(0.2)
        remote.slow.set()

    async def fail_beside_calls() -> None:
        async with running(tmp_path, remote) as teacher, anyio.create_task_group() as tasks:
            await teacher.complete_all(requests_for(teacher, ["quick first"]))
            tasks.start_soon(complete_all, teacher, SLOW, "slow", done)
            await remote.all_wait()
            raise ZeroDivisionError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_soon)
        with pytest.raises(ExceptionGroup) as raised:
            await fail_beside_calls()
    assert raised.group_contains(ZeroDivisionError)
    assert not done
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["slow"].answered == len(SLOW)
