from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import numpy as np
import pytest
from pydantic import BaseModel

from nanodistill.errors import (
    CallError,
    ConfigError,
    FatalProviderError,
    RequestRejectedError,
    TransientError,
)
from nanodistill.journal import ASKED_AGAIN
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.providers.teacher_validation import check_teacher
from nanodistill.types import Completion, Message, Request, Usage
from providers.opened import SCHEMA, config, opened, request

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def answer(teacher: Any, asked: Request | None = None) -> str:
    reply = await ScriptedProvider(teacher).complete(asked or request("hello"))
    return reply.completion.text


async def failure(teacher: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await answer(teacher)
    return caught.value


class Label(BaseModel):
    label: str


async def an_async_one(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    return text.upper()


class Counter:
    def __call__(self, text: str, messages: list[Message]) -> str:
        return f"{len(messages)} {text}"


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


class Animal(enum.Enum):
    CAT = "cat"


class Plant(enum.StrEnum):
    OAK = "oak"


def keyword_only(*, prompt: str) -> str:
    return prompt


def first(text: str, /) -> str:
    return f"got {text}"


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        (lambda text: text.upper(), "HELLO"),
        (lambda prompt: prompt[::-1], "olleh"),
        (str.upper, "HELLO"),
        (first, "got hello"),
        (functools.partial(lambda text, mark: text + mark, mark="!"), "hello!"),
        (lambda text, mark="?": text + mark, "hello?"),
        (an_async_one, "HELLO"),
        (Counter(), "2 hello"),
        (lambda messages: messages[0]["content"], "Be brief."),
        (lambda request: request.stage, "test"),
        (lambda text: {"a": [1, "ü"]}, '{"a": [1, "ü"]}'),
        (lambda text: Label(label="x"), '{"label":"x"}'),
        (lambda *texts: texts[0], "hello"),
        (lambda prompt, schema=None: f"{prompt} {schema}", "hello None"),
        (keyword_only, "hello"),
        (lambda text: an_async_one(text), "HELLO"),
        (lambda text: Point(1, Label(label="x")), '{"x": 1, "y": {"label": "x"}}'),
        (lambda text: {"point": Point(1, 2)}, '{"point": {"x": 1, "y": 2}}'),
        (lambda text: [Label(label="x")], '[{"label": "x"}]'),
        (lambda text: b"hello", "hello"),
        (lambda text: Animal.CAT, "cat"),
        (lambda text: Plant.OAK, "oak"),
        (lambda text: {"n": np.float32(0.5), "all": np.array([1, 2])}, '{"n": 0.5, "all": [1, 2]}'),
        (lambda text: np.int64(3), "3"),
        (lambda text: datetime.date(2024, 1, 2), "2024-01-02"),
        (lambda text: [], "[]"),
    ],
)
async def test_what_functions_get_and_give(teacher: Callable[..., Any], text: str) -> None:
    assert await answer(teacher) == text


async def test_a_function_is_told_the_schema() -> None:
    def teach(text: str, schema: dict[str, Any] | None) -> dict[str, Any] | str:
        return "plain" if schema is None else dict.fromkeys(schema["required"], "a")

    assert await answer(teach) == "plain"
    assert await answer(teach, request(schema=SCHEMA)) == '{"label": "a", "why": "a"}'


async def test_a_completion_is_taken_as_it_is() -> None:
    whole = Completion("x", "length", Usage(3, 4), reasoning="hm", cost_usd=0.5)
    reply = await ScriptedProvider(lambda text: whole).complete(request())
    assert reply.completion is whole


async def test_a_list_is_served_in_order() -> None:
    provider = ScriptedProvider(
        ["one", TransientError("rate_limit", "wait", retry_after=2), {"n": 2}]
    )
    assert (await provider.complete(request())).completion.text == "one"
    with pytest.raises(TransientError) as refused:
        await provider.complete(request())
    assert refused.value.retry_after == 2
    assert (await provider.complete(request())).completion.text == '{"n": 2}'
    with pytest.raises(FatalProviderError, match="no more answers"):
        await provider.complete(request())


def raising(error: BaseException) -> Callable[[str], str]:
    def teach(text: str) -> str:
        raise error

    return teach


@pytest.mark.parametrize(
    ("error", "fate", "kind"),
    [
        (RequestRejectedError("refusal", "I won't"), RequestRejectedError, "refusal"),
        (ConnectionResetError(), TransientError, "connection"),
        (TimeoutError(), TransientError, "timeout"),
        (ZeroDivisionError("oops"), FatalProviderError, "function"),
        (KeyError("oops"), FatalProviderError, "function"),
    ],
)
async def test_what_functions_raise(error: BaseException, fate: type[CallError], kind: str) -> None:
    caught = await failure(raising(error))
    assert (type(caught), caught.kind) == (fate, kind)


async def test_a_mistake_names_its_place() -> None:
    assert "test_scripted.py" in (await failure(raising(ZeroDivisionError("oops")))).message


async def test_nothing_is_empty() -> None:
    assert (await failure(lambda text: None)).kind == "empty"
    assert (await failure(lambda text: " ")).kind == "empty"


def yields(text: str) -> Iterator[str]:
    yield text


async def yields_later(text: str) -> AsyncIterator[str]:
    yield text


class Unready:
    def __init__(self, path: str) -> None: ...

    def __call__(self, text: str) -> str:
        return text


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (lambda text, number: text, "takes text, number"),
        (lambda a, b: a, "takes a, b"),
        (lambda: "", "takes nothing"),
        (lambda **named: "", "takes nothing"),
        (yields, "yields"),
        (yields_later, "yields"),
        (functools.partial(yields), "yields"),
        (Counter.__call__, "method"),
    ],
)
def test_a_function_that_can_not_be_asked_is_refused(teacher: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        ScriptedProvider(teacher)


@pytest.mark.parametrize(
    "name",
    ["yields", "yields_later", "Unready", "Label", "Point", "Animal", "Counter.__call__", "SCHEMA"],
)
def test_what_a_run_file_names_is_looked_at_before_anything_is_asked(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_teacher(config(teacher=f"python:{__name__}:{name}"))
    assert [problem.where for problem in refused.value.problems] == ["teacher"]


async def test_a_class_is_instantiated() -> None:
    async with opened(config(teacher=f"python:{__name__}:Counter")) as provider:
        assert (await provider.complete(request("hello"))).completion.text == "2 hello"


def test_a_function_goes_by_its_name() -> None:
    assert config(teacher=first).teacher == f"python:{__name__}:first"
    with pytest.raises(ConfigError, match="teacher"):
        config(teacher=lambda text: text)


def endless() -> list[Any]:
    held: list[Any] = []
    held.append(held)
    return held


@pytest.mark.parametrize(
    "given",
    [
        object(), b"\xff", endless(), {("a", "b"): 1}, {"x": object()}, iter("ab"),
        Completion(cast(str, 3), "stop", Usage()), Completion("x", "stop", cast(Usage, None)),
        Completion("x", "stop", Usage(), reasoning=cast(str, b"x")), threading.Lock(),
    ],
)  # fmt: skip
async def test_an_answer_that_is_neither_text_nor_json_is_its_rows_failure(given: Any) -> None:
    caught = await failure(lambda text: given)
    assert (type(caught), caught.kind) == (RequestRejectedError, "function")
    assert caught.kind in ASKED_AGAIN


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), GeneratorExit(), StopIteration(), asyncio.CancelledError(), BaseException("x")],
    ids=repr,
)
async def test_what_is_no_exception_stops_the_run_and_no_more(
    error: BaseException, is_async: bool
) -> None:
    async def teach(text: str) -> str:
        raise error

    caught = await failure(teach if is_async else raising(error))
    assert (type(caught), caught.kind) == (FatalProviderError, "function")


async def test_a_call_that_is_cancelled_is_cancelled() -> None:
    async def teach(text: str) -> str:
        scope.cancel()
        await anyio.sleep_forever()
        return text

    with anyio.CancelScope() as scope:
        await ScriptedProvider(teach).complete(request())
    assert scope.cancelled_caught


def test_a_function_that_never_returns_does_not_keep_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import time\ndef teach(text): time.sleep(10_000)\n")
    (tmp_path / "seeds.jsonl").write_text('{"input": "a b c", "output": "x"}\n' * 3)
    (tmp_path / "run.toml").write_text(
        'name = "run"\nseed = "seeds.jsonl"\ninstruction = "Answer with the sum."\n'
        'teacher = "python:mine.py:teach"\nextract_policy = false\n'
        "timeout_seconds = 1\nmax_retries = 0\n"
    )
    words = [sys.executable, "-m", "nanodistill", "synth", "run.toml"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 3


async def test_plain_functions_run_beside_each_other() -> None:
    both = threading.Barrier(2, timeout=5)

    def teach(text: str) -> str:
        both.wait()
        return text

    provider = ScriptedProvider(teach)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(provider.complete, request("a"))
        tasks.start_soon(provider.complete, request("b"))


async def test_a_slow_function_ends_at_its_timeout() -> None:
    async def teach(text: str) -> str:
        await anyio.sleep_forever()
        return text

    with pytest.raises(TransientError) as slow:
        await ScriptedProvider(teach, timeout=0.01).complete(request())
    assert slow.value.kind == "timeout"


async def test_named_in_a_run_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def teach(text):\n    return text + '!'\n")
    teacher = f"python:{tmp_path}/mine.py:teach"
    async with opened(config(teacher=teacher)) as provider:
        assert (await provider.complete(request("hello"))).completion.text == "hello!"
