from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from nanodistill.errors import CallError, FatalProviderError, RequestRejectedError, TransientError
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.types import Completion, Message, Request, Usage
from teacher.opened import SCHEMA, config, opened, request

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


def test_a_function_that_can_not_be_asked_is_refused() -> None:
    with pytest.raises(TypeError, match="takes text, number"):
        ScriptedProvider(lambda text, number: text)


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
