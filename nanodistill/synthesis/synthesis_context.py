"""A run that is open for work: its journal, its teacher and judge, and whom to tell."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from anyio import to_thread

from nanodistill.config import DistillationConfig
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.teacher import open_teacher
from nanodistill.errors import ConfigError, unwrap_group
from nanodistill.events import Listener
from nanodistill.interrupts import on_interrupt_in_loop
from nanodistill.journal import Journal, open_journal, read_journal
from nanodistill.providers.base import Provider
from nanodistill.providers.factory import open_provider, planned_provider
from nanodistill.providers.lazy_imports import quiet
from nanodistill.run_dir import RunFolder
from nanodistill.synthesis.answers import AnswerRequester
from nanodistill.synthesis.judge import Judge, RoutingProvider, judge_settings
from nanodistill.synthesis.rounds import abandoned_requests
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol

FORM_NOTE = "structured output of {}"


@dataclass(frozen=True)
class SynthesisContext:
    """What the stages work with. Unless it `writes`, only the journal is written to."""

    task: Task
    run: RunFolder
    journal: Journal
    teacher: TeacherProtocol
    judge: Judge | None
    on_event: Listener
    writes: bool = True

    @property
    def requester(self) -> AnswerRequester:
        return AnswerRequester(self.task, self.teacher)


@asynccontextmanager
async def open_context(
    task: Task,
    run: RunFolder,
    on_event: Listener,
    *,
    provider: Provider | None = None,
    stop: StopSignal | None = None,
    read_only: bool = False,
    plans: bool = False,
) -> AsyncIterator[SynthesisContext]:
    """Open journal and teacher. A provider that was given is not closed.

    Without `stop`, Ctrl-C and SIGTERM ask the run to stop. A `read_only` bench
    may be opened beside another process's run, and can't ask anything. One that
    only `plans` needs no key.
    """
    config, opening = task.config, read_journal if read_only else open_journal
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(quiet())
            # Opening checks the whole journal, and a provider may import LiteLLM: seconds that
            # the event loop of a notebook or a server must not stand still.
            opened_journal = opening(run.journal)
            journal = await to_thread.run_sync(opened_journal.__enter__)
            stack.push(opened_journal)
            opened = planned_provider if plans else _opening(stack, journal, on_event)
            providers = await to_thread.run_sync(_providers, config, opened, provider)
            signals = await _signals(stack, stop)
            both = providers if isinstance(providers, RoutingProvider) else None
            teacher = await stack.enter_async_context(
                open_teacher(
                    config,
                    journal,
                    providers,
                    on_event,
                    signals,
                    given_up=abandoned_requests(journal, task),
                    judge_endpoint=None if both is None else both.judge.endpoint,
                )
            )
            judge = None
            if both is not None:
                judge = Judge(task, teacher, both.judge_model, both.judge.endpoint)
            yield SynthesisContext(task, run, journal, teacher, judge, on_event)
    except BaseExceptionGroup as group:
        raise unwrap_group(group) from None


async def _signals(stack: AsyncExitStack, given: StopSignal | None) -> StopSignal:
    if given is not None:
        return given
    signals = StopSignal()
    stack.enter_context(on_interrupt_in_loop(signals.request))
    if threading.current_thread() is threading.main_thread():
        await stack.enter_async_context(signals.on_signals())
    return signals


def _providers(
    config: DistillationConfig,
    opened: Callable[[DistillationConfig], Provider],
    given: Provider | None,
) -> Provider:
    """The teacher, and with it the judge where there is one."""
    teacher = given or opened(config)
    if config.judge is None:
        return teacher
    try:
        judge = opened(judge_settings(config))
    except ConfigError as wrong:
        problems = [replace(p, where="judge" if p.where == "teacher" else p.where)
                    for p in wrong.problems]  # fmt: skip
        raise ConfigError("The judge can't be used:", problems) from wrong
    return RoutingProvider(teacher, judge, config.judge)


def _opening(
    stack: AsyncExitStack, journal: Journal, on_event: Listener
) -> Callable[[DistillationConfig], Provider]:
    """Opens providers that remember with the run what worked with them."""

    def opened(config: DistillationConfig) -> Provider:
        note = FORM_NOTE.format(config.teacher)
        provider = open_provider(
            config,
            remembered=journal.note(note),
            remember=lambda lines: journal.keep_note(note, lines),
            on_event=on_event,
        )
        stack.push_async_callback(provider.aclose)
        return provider

    return opened
