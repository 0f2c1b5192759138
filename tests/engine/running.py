"""A teacher opened for a test: on a real event loop, or on trio's virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from providers.opened import config

from nanodistill.engine.group_commit import Offload
from nanodistill.engine.response_validation import Answer, Failure
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.teacher import Teacher, open_teacher
from nanodistill.events import Event, ignore
from nanodistill.journal import open_journal
from nanodistill.providers.base import Provider
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.types import Request

Result = TypeVar("Result")


async def inline(work: Callable[[], Result], /) -> Result:
    """Blocking work done on the spot: on virtual time, a thread's real time would not pass."""
    return work()


@asynccontextmanager
async def running(
    folder: Path,
    provider: Any,
    *,
    stop: StopSignal | None = None,
    on_event: Callable[[Event], None] = ignore,
    offload: Offload | None = None,
    **settings: Any,
) -> AsyncIterator[Teacher]:
    """A teacher over `provider`, which may be what a `ScriptedProvider` takes."""
    asked: Provider = provider if hasattr(provider, "complete") else ScriptedProvider(provider)
    fields = {"teacher": "python:tests:teacher", **settings}
    with open_journal(folder / "journal.sqlite") as journal:
        async with open_teacher(
            config(**fields), journal, asked, on_event, stop or StopSignal(), offload=offload
        ) as teacher:
            yield teacher


def requests_for(
    teacher: Teacher, texts: Iterable[str], *, stage: str = "generate", **more: Any
) -> list[Request]:
    return [teacher.request(stage, [{"role": "user", "content": text}], **more) for text in texts]


def told(results: Iterable[Answer | Failure]) -> Sequence[str]:
    """Each answer's text, each failure's kind in angle brackets."""
    return [
        outcome.completion.text if isinstance(outcome, Answer) else f"<{outcome.kind}>"
        for outcome in results
    ]
