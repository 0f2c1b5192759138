"""A run that is open for work: its journal, its teacher and judge, and whom to tell."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from nanodistill.config import DistillationConfig
from nanodistill.events import Listener
from nanodistill.journal import Journal, open_journal
from nanodistill.runfolder import RunFolder
from nanodistill.synthesis.answers import Asker
from nanodistill.synthesis.judging import Judge, TeacherAndJudge
from nanodistill.synthesis.task import Task
from nanodistill.teacher.engine import Teacher, open_teacher
from nanodistill.teacher.opening import open_provider
from nanodistill.teacher.provider import Provider
from nanodistill.teacher.stop import StopSignal

FORM_NOTE = "structured output of {}"


@dataclass(frozen=True)
class Bench:
    """What the stages work with."""

    task: Task
    run: RunFolder
    journal: Journal
    teacher: Teacher
    judge: Judge | None
    listen: Listener

    @property
    def asker(self) -> Asker:
        return Asker(self.task, self.teacher)


@asynccontextmanager
async def open_bench(
    task: Task,
    run: RunFolder,
    listen: Listener,
    *,
    provider: Provider | None,
    stop: StopSignal | None,
) -> AsyncIterator[Bench]:
    """Open journal and teacher. A provider that was given is not closed."""
    try:
        async with _opened_bench(task, run, listen, provider=provider, stop=stop) as bench:
            yield bench
    except BaseExceptionGroup as group:
        raise the_only(group) from None


def the_only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a task group wrapped up, where it is one error; else the group."""
    if len(group.exceptions) > 1:
        return group
    (error,) = group.exceptions
    return the_only(error) if isinstance(error, BaseExceptionGroup) else error


@asynccontextmanager
async def _opened_bench(
    task: Task,
    run: RunFolder,
    listen: Listener,
    *,
    provider: Provider | None,
    stop: StopSignal | None,
) -> AsyncIterator[Bench]:
    config = task.config
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(open_journal(run.journal))
        asked = provider or await _opened(stack, config, journal, listen)
        judge_provider: Provider | None = None
        if config.judge is not None:
            as_judge = config.model_copy(update={"teacher": config.judge, "teacher_price": None})
            judge_provider = await _opened(stack, as_judge, journal, listen)
            asked = TeacherAndJudge(asked, judge_provider, config.judge)
        signals = stop or StopSignal()
        if stop is None and threading.current_thread() is threading.main_thread():
            await stack.enter_async_context(signals.on_signals())
        teacher = await stack.enter_async_context(
            open_teacher(config, journal, asked, listen, signals)
        )
        judge = None
        if judge_provider is not None and config.judge is not None:
            judge = Judge(task, teacher, config.judge, judge_provider.endpoint)
        yield Bench(task, run, journal, teacher, judge, listen)


async def _opened(
    stack: AsyncExitStack, config: DistillationConfig, journal: Journal, listen: Listener
) -> Provider:
    """A provider that remembers with the run which form of structured output worked."""
    note = FORM_NOTE.format(config.teacher)
    provider = open_provider(
        config,
        remembered=journal.note(note),
        remember=lambda line: journal.keep_note(note, line),
        listen=listen,
    )
    stack.push_async_callback(provider.aclose)
    return provider
