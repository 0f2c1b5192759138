from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from nanodistill.engine.group_commit import open_group_commit, own_threads
from nanodistill.errors import DiskFullError
from nanodistill.journal import Attempt, Call, Journal, Record, open_journal, read_journal
from nanodistill.types import tagged_hash

pytestmark = pytest.mark.anyio

Result = TypeVar("Result")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def call(n: int) -> Call:
    key = tagged_hash("test", n)
    return Call(Attempt(float(n), "generate", "m", key, "first", "answered"))


def on_disk(path: Path) -> list[float]:
    with read_journal(path) as journal:
        return [attempt.at for attempt in journal.attempts()]


async def test_a_record_is_durable_when_record_returns(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(path) as journal:
        async with open_group_commit(journal, own_threads()) as recorder:
            for n in range(3):
                await recorder.record(call(n))
                assert on_disk(path)[-1] == n


async def test_records_that_arrive_together_share_a_commit(tmp_path: Path) -> None:
    commits, threads = 0, own_threads()

    async def counted(work: Callable[[], Result], /) -> Result:
        nonlocal commits
        commits += 1
        return await threads(work)

    with open_journal(tmp_path / "journal.sqlite") as journal:
        async with (
            open_group_commit(journal, counted) as recorder,
            anyio.create_task_group() as tasks,
        ):
            for n in range(500):
                tasks.start_soon(recorder.record, call(n))
    assert commits <= 5
    assert sorted(on_disk(tmp_path / "journal.sqlite")) == list(range(500))


async def test_what_has_arrived_is_committed_also_when_it_ends_in_an_error(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.sqlite") as journal:

        async def fail() -> None:
            async with open_group_commit(journal, own_threads()) as recorder:
                recorder.note(call(1))
                raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            await fail()
        with anyio.move_on_after(0.05):
            async with open_group_commit(journal, own_threads()) as recorder:
                recorder.note(call(2))
                await anyio.sleep_forever()
    assert on_disk(tmp_path / "journal.sqlite") == [1, 2]


async def test_closing_while_a_commit_begins_loses_nothing(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.sqlite") as journal:
        for checkpoints in range(8):
            async with open_group_commit(journal, own_threads()) as recorder:
                recorder.note(call(checkpoints))
                for _ in range(checkpoints):
                    await anyio.lowlevel.checkpoint()
    assert on_disk(tmp_path / "journal.sqlite") == list(range(8))


async def test_a_failed_commit_is_told_to_all_who_wait_for_it(tmp_path: Path) -> None:
    class Full(Journal):
        def commit(self, records: Sequence[Record]) -> None:
            raise DiskFullError("no room left")

    told = []

    with open_journal(tmp_path / "journal.sqlite") as journal:
        journal.__class__ = Full
        async with open_group_commit(journal, own_threads()) as recorder:

            async def record(n: int) -> None:
                with pytest.raises(DiskFullError):
                    await recorder.record(call(n))
                told.append(n)

            async with anyio.create_task_group() as tasks:
                for n in range(5):
                    tasks.start_soon(record, n)
    assert sorted(told) == list(range(5))


async def test_work_that_blocks_all_threads_does_not_keep_records_from_the_disk(
    tmp_path: Path,
) -> None:
    """A teacher of plain functions may take all the threads that there are for such work."""
    hold = threading.Event()

    async def block() -> None:
        await anyio.to_thread.run_sync(hold.wait)

    with open_journal(tmp_path / "journal.sqlite") as journal:
        async with (
            open_group_commit(journal, own_threads()) as recorder,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(100):
                tasks.start_soon(block)
            await anyio.wait_all_tasks_blocked()
            try:
                with anyio.fail_after(10):
                    await recorder.record(call(1))
            finally:
                hold.set()
    assert on_disk(tmp_path / "journal.sqlite") == [1]
