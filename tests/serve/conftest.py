"""A server over a tiny student, on loopback, for the real `openai` client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import INSTRUCTION, make_adapter, make_dataset, make_model, some_rows
from openai import OpenAI

from nanodistill.config import DistillationConfig
from nanodistill.events import Event, Notice
from nanodistill.models.resolve import resolve_model
from nanodistill.run_dir import RunFolder
from nanodistill.serve import Limits, serve_async
from nanodistill.training.runs import RunEntry, make_latest

KEY = "sk-local-secret"


@dataclass
class Running:
    """A server in a thread, and its events."""

    url: str = ""
    events: list[Event] = field(default_factory=list)
    served: int | None = None
    failed: BaseException | None = None
    stop: Callable[[], None] = lambda: None

    clients: list[OpenAI] = field(default_factory=list)

    def client(self, api_key: str = KEY) -> OpenAI:
        url = f"{self.url}/v1"
        self.clients.append(OpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=60))
        return self.clients[-1]

    def close_clients(self) -> None:
        for client in self.clients:
            client.close()

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@contextmanager
def running(config: DistillationConfig, run: RunFolder, **options: Any) -> Iterator[Running]:
    """Serve in a thread with a loop of its own until the block ends."""
    server, ready = Running(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def on_ready(url: str) -> None:
        server.url = url
        ready.set()

    async def work() -> None:
        server.served = await serve_async(
            config, run, stop=stop, port=0, on_event=server.events.append, ready=on_ready, **options
        )

    def thread() -> None:
        try:
            loop.run_until_complete(work())
        except BaseException as error:  # noqa: BLE001 - told to the test
            server.failed = error
        finally:
            loop.close()
            ready.set()

    def stop_it() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    server.stop = stop_it
    worker = threading.Thread(target=thread)
    worker.start()
    ready.wait()
    try:
        yield server
    finally:
        server.stop()
        worker.join()
        server.close_clients()


@dataclass(frozen=True)
class Student:
    """A run with a trained adapter, and the configuration that names it."""

    config: DistillationConfig
    run: RunFolder


def make_student(root: Path, template: str | None = None, **shape: Any) -> Student:
    """A student whose config.json has `shape` for its own."""
    model = make_model(root / "model", **shape)
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    run = RunFolder(root / "tiny")
    dataset = make_dataset(run, some_rows())
    make_adapter(run.training / "r1" / "adapters", model)
    identity = resolve_model(str(model)).identity
    entry = RunEntry("r1", dataset.name, dataset.fingerprint, str(model), identity, "cot")
    make_latest(run, entry)
    config = DistillationConfig(
        name="tiny",
        seed=str(root / "there-is-no-such-file.jsonl"),
        instruction=INSTRUCTION,
        student=str(model),
        output_dir=root,
        max_new_tokens=8,
    )
    return Student(config, run)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="session")
def server(student: Student) -> Iterator[Running]:
    """A server with a key, room for four requests and one waiting, and small bodies."""
    limits = Limits(batch=4, queue=1, body=20_000)
    with running(student.config, student.run, api_key=KEY, limits=limits) as started:
        yield started
