"""A provider with a format of its own, through LiteLLM."""

from __future__ import annotations

import json

import pytest

from nanodistill.errors import CallError, FatalProviderError, RequestRejectedError, TransientError
from nanodistill.providers.base import RateHints
from nanodistill.providers.structured_output import has_shape
from nanodistill.types import Usage
from providers.opened import KEY, SCHEMA, config_for, opened, request
from providers.server import Act, TeacherServer, answered, cut, raw, status, truncated

pytestmark = pytest.mark.anyio

MODEL = "anthropic/claude-sonnet-4-5"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_an_answer(teacher_server: TeacherServer) -> None:
    teacher_server.set(
        headers={
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-tokens-limit": "40000",
        }
    )
    async with opened(config_for(teacher_server.root, teacher=MODEL)) as provider:
        reply = await provider.complete(request(model=MODEL, temperature=0.5, max_tokens=20))
    (call,) = teacher_server.calls
    assert call.headers["x-api-key"] == KEY
    assert call.body["max_tokens"] == 20
    assert reply.completion.usage == Usage(4, 12)
    assert reply.completion.cost_usd == pytest.approx((4 * 3 + 12 * 15) / 1e6)
    assert reply.hints == RateHints(50, 40000, 49)


async def test_a_schema(teacher_server: TeacherServer) -> None:
    for form in ("json_schema", "tools", "text"):
        settings = config_for(teacher_server.root, teacher=MODEL, structured_output=form)
        async with opened(settings) as provider:
            completion = (await provider.complete(request(model=MODEL, schema=SCHEMA))).completion
        assert has_shape(completion.text, SCHEMA), form


async def test_truncated(teacher_server: TeacherServer) -> None:
    teacher_server.next(truncated("half an ans"))
    async with opened(config_for(teacher_server.root, teacher=MODEL)) as provider:
        completion = (await provider.complete(request(model=MODEL))).completion
    assert (completion.text, completion.finish_reason) == ("half an ans", "length")


@pytest.mark.parametrize(
    ("act", "fate", "kind"),
    [
        (status(401, type="authentication_error"), FatalProviderError, "auth"),
        (status(400, "Your credit balance is too low"), FatalProviderError, "quota"),
        (status(404, "model: claude-x", type="not_found_error"), FatalProviderError, "not_found"),
        (status(429, type="rate_limit_error"), TransientError, "rate_limit"),
        (status(529, "Overloaded", type="overloaded_error"), TransientError, "overloaded"),
        (status(500, type="api_error"), TransientError, "server_error"),
        (status(400, "prompt is too long: 9 > 8"), RequestRejectedError, "context_length"),
        (answered("", "content_filter"), RequestRejectedError, "content_filter"),
        (raw("hello"), TransientError, "bad_body"),
        (raw(json.dumps({"type": "message"})), TransientError, "bad_body"),
        (cut(), TransientError, "bad_body"),
    ],
)
async def test_faults(
    teacher_server: TeacherServer, act: Act, fate: type[CallError], kind: str
) -> None:
    teacher_server.next(act)
    async with opened(config_for(teacher_server.root, teacher=MODEL)) as provider:
        with pytest.raises(CallError) as caught:
            await provider.complete(request(model=MODEL))
    assert (type(caught.value), caught.value.kind) == (fate, kind)
    assert teacher_server.total == 1
    assert KEY not in repr(caught.value)


async def test_the_wait_of_a_refusal(teacher_server: TeacherServer) -> None:
    teacher_server.next(status(429, headers={"retry-after": "11"}))
    async with opened(config_for(teacher_server.root, teacher=MODEL)) as provider:
        with pytest.raises(TransientError) as refused:
            await provider.complete(request(model=MODEL))
    assert refused.value.retry_after == 11
