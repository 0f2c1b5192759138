from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from nanodistill import jsontext
from nanodistill.errors import FatalProviderError, RequestRejectedError
from nanodistill.events import Event, Notice
from nanodistill.providers.model_resolution import resolve
from nanodistill.providers.structured_output import (
    Form,
    build_overlay,
    first_forms,
    has_shape,
    strictly,
)
from providers.opened import SCHEMA, config_for, opened, request
from providers.server import TeacherServer, answered, status

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["auto", "litellm"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Run:
    """What a run keeps and what a person is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notices: list[str] = []

    def on_event(self, event: Event) -> None:
        assert isinstance(event, Notice)
        self.notices.append(event.text)

    @property
    def memory(self) -> dict[str, Any]:
        last = self.lines[-1] if self.lines else None
        return {"remembered": last, "remember": self.lines.append, "on_event": self.on_event}


async def test_a_refused_form_is_left_once_for_the_run(
    teacher_server: TeacherServer, transport: str
) -> None:
    teacher_server.set(response_format="refuse")
    settings, run = config_for(teacher_server.url, transport=transport), Run()
    async with opened(settings, **run.memory) as provider:
        for _ in range(3):
            completion = (await provider.complete(request(schema=SCHEMA))).completion
            assert has_shape(completion.text, SCHEMA)
    assert [bool(call.tool) for call in teacher_server.calls] == [False, True, True, True]
    (notice,) = run.notices
    assert '"tools"' in notice
    assert "response_format" in notice


async def test_calls_under_way_together_step_down_once(
    teacher_server: TeacherServer, transport: str
) -> None:
    teacher_server.set(response_format="refuse", latency=0.05)
    settings, run = config_for(teacher_server.url, transport=transport), Run()
    async with opened(settings, **run.memory) as provider, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(provider.complete, request(f"number {number}", schema=SCHEMA))
    assert len(run.notices) == 1
    assert teacher_server.total == 10


async def test_a_resumed_run_starts_with_what_worked(
    teacher_server: TeacherServer, transport: str
) -> None:
    teacher_server.set(response_format="refuse", tools="refuse")
    settings, run = config_for(teacher_server.url, transport=transport), Run()
    async with opened(settings, **run.memory) as provider:
        await provider.complete(request(schema=SCHEMA))
    assert len(teacher_server.calls) == 4
    teacher_server.forget()
    async with opened(settings, **run.memory) as provider:
        await provider.complete(request(schema=SCHEMA))
    (call,) = teacher_server.calls
    assert not call.wants_format
    assert not call.tool
    teacher_server.set(response_format="honour")
    other = settings.model_copy(update={"teacher": "openai/other"})
    async with opened(other, **run.memory) as provider:
        await provider.complete(request(schema=SCHEMA, model="openai/other"))
    assert teacher_server.calls[-1].format_schema is not None


async def test_an_ignored_form_is_left(teacher_server: TeacherServer, transport: str) -> None:
    teacher_server.set(response_format="ignore")
    settings, run = config_for(teacher_server.url, transport=transport), Run()
    async with opened(settings, **run.memory) as provider:
        for number in range(5):
            await provider.complete(request(f"number {number}", schema=SCHEMA))
    assert [bool(call.tool) for call in teacher_server.calls] == [False] * 3 + [True] * 2
    assert len(run.notices) == 1


async def test_a_form_that_worked_is_not_left_for_a_slip(teacher_server: TeacherServer) -> None:
    run = Run()
    slips = [answered("sorry, no JSON")] * 5
    async with opened(config_for(teacher_server.url), **run.memory) as provider:
        await provider.complete(request(schema=SCHEMA))
        teacher_server.next(*slips)
        for _ in slips:
            await provider.complete(request(schema=SCHEMA))
    assert run.notices == []


async def test_a_chosen_form_is_kept(teacher_server: TeacherServer, transport: str) -> None:
    teacher_server.set(response_format="refuse")
    settings = config_for(teacher_server.url, transport=transport, structured_output="json_schema")
    async with opened(settings) as provider:
        with pytest.raises(
            FatalProviderError, match=r'structured_output is "json_schema"'
        ) as stopped:
            await provider.complete(request(schema=SCHEMA))
    assert stopped.value.kind == "parameter"


async def test_a_400_that_only_sounds_like_it_loses_a_row(teacher_server: TeacherServer) -> None:
    teacher_server.next(status(400, "your text about json_schema is not nice"))
    async with opened(config_for(teacher_server.url)) as provider:
        with pytest.raises(RequestRejectedError, match="json_schema"):
            await provider.complete(request())


@pytest.mark.parametrize(
    ("model", "forms"),
    [
        ("gpt-4o-mini", ("json_schema", "tools", "json", "text")),
        ("openai/whatever", ("json_schema", "tools", "json", "text")),
        ("hosted_vllm/whatever", ("json_schema", "tools", "json", "text")),
        ("ollama/whatever", ("json_schema", "json", "text")),
        ("claude-sonnet-4-5", ("json_schema", "tools", "json", "text")),
        ("gpt-3.5-turbo", ("tools", "json", "text")),
    ],
)
def test_where_auto_starts(model: str, forms: tuple[Form, ...]) -> None:
    assert first_forms(resolve(model, {}), "auto") == forms


async def test_instructor_kwargs_reach_instructor(teacher_server: TeacherServer) -> None:
    settings = config_for(
        teacher_server.url, structured_output="tools", instructor_kwargs={"mode": "MD_JSON"}
    )
    async with opened(settings) as provider:
        await provider.complete(request(schema=SCHEMA))
    (call,) = teacher_server.calls
    assert not call.tool
    assert "```json" in call.user


async def test_words_of_a_form_without_a_system_message() -> None:
    wording = await build_overlay("json", SCHEMA, {})
    (system, user) = wording.words(request("hi", system=None).messages)
    assert (system["role"], user) == ("system", {"role": "user", "content": "hi"})
    assert '"label"' in system["content"]


def test_strict_where_the_schema_allows_it() -> None:
    part = {"type": "object", "properties": {"x": {"type": "string", "default": "a"}}}
    whole = part | {"required": ["x"]}
    closed = whole | {"properties": {"x": {"type": "string"}}, "additionalProperties": False}
    assert strictly(whole) == closed
    assert strictly(part) is None, "an optional property would become required"
    assert strictly({"type": "array", "items": {"type": "string"}}) is None
    assert strictly(whole | {"additionalProperties": {"type": "string"}}) is None
    nested = {
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}}},
        "required": ["rows"],
        "$defs": {"Row": whole},
    }
    told = strictly(nested)
    assert told is not None
    assert told["$defs"]["Row"] == closed
    assert strictly(nested | {"$defs": {"Row": part}}) is None
    properties_named_like_keywords = {
        "type": "object",
        "properties": {"default": {"type": "string"}, "items": {"type": "string"}},
        "required": ["default", "items"],
    }
    told = strictly(properties_named_like_keywords)
    assert told is not None
    assert set(told["properties"]) == {"default", "items"}


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure!\n```json\n{"a": {"b": [1, 2]}}\n```', {"a": {"b": [1, 2]}}),
        ("a {brace} and then [1]", [1]),
        ("no JSON at all", None),
        ('{"a": 1', None),
    ],
)
def test_json_in_a_text(text: str, held: object) -> None:
    assert jsontext.find_container(text) == held
    assert has_shape(json.dumps(held), {"type": "array"}) is (held is not None)
