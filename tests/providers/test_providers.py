# ruff: noqa: E501 - the table of faults has a line for each
"""One suite over both transports: the same answers, the same faults, nothing leaked."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from nanodistill.config import DistillationConfig
from nanodistill.errors import CallError, FatalProviderError, RequestRejectedError, TransientError
from nanodistill.providers.base import RateHints
from nanodistill.providers.litellm import LiteLLMProvider
from nanodistill.providers.openai_compatible import LARGEST_BODY, OpenAICompatibleProvider
from nanodistill.types import Usage
from providers.opened import KEY, SCHEMA, config_for, opened, request
from providers.server import (
    Act,
    TeacherServer,
    answered,
    bad_zip,
    cut,
    drop,
    echo_key,
    error_inside_200,
    hang,
    html,
    raw,
    status,
    truncated,
    zipped,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["auto", "litellm"])
def settings(request: pytest.FixtureRequest, teacher_server: TeacherServer) -> DistillationConfig:
    return config_for(teacher_server.url, transport=request.param)


async def fault(settings: DistillationConfig, **more: Any) -> CallError:
    async with opened(settings) as provider:
        with pytest.raises(CallError) as caught:
            await provider.complete(request(**more))
    return caught.value


async def test_each_transport_is_what_it_says(teacher_server: TeacherServer) -> None:
    async with opened(config_for(teacher_server.url)) as provider:
        assert isinstance(provider, OpenAICompatibleProvider)
    async with opened(config_for(teacher_server.url, transport="litellm")) as provider:
        assert isinstance(provider, LiteLLMProvider)


async def test_an_answer(settings: DistillationConfig, teacher_server: TeacherServer) -> None:
    async with opened(settings) as provider:
        reply = await provider.complete(request("hello", temperature=0.3))
    (call,) = teacher_server.calls
    assert call.body == {
        "model": "any",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "temperature": 0.3,
    }
    assert call.headers["Authorization"] == f"Bearer {KEY}"
    assert len(reply.completion.text.split()) == 12
    assert reply.completion.finish_reason == "stop"
    assert reply.completion.usage == Usage(prompt_tokens=3, completion_tokens=12)
    assert reply.completion.cost_usd is None
    assert reply.completion.latency > 0
    assert reply.hints is None


async def test_tokens_price_and_reasoning(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 300},
    }
    message = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    teacher_server.next(raw(json.dumps(body | {"choices": [choice], "usage": usage})))
    priced = settings.model_copy(update={"teacher": "openai/gpt-4o-mini"})
    async with opened(priced) as provider:
        completion = (await provider.complete(request())).completion
    assert completion.usage == Usage(1000, 500, 400, 300)
    assert (completion.text, completion.reasoning) == ("4", "2 and 2")
    assert completion.cost_usd == pytest.approx((600 * 0.15 + 400 * 0.075 + 500 * 0.6) / 1e6)


async def test_thoughts_at_the_beginning_are_reasoning(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    teacher_server.next(answered("<think>hm, 4?</think>4"))
    async with opened(settings) as provider:
        completion = (await provider.complete(request())).completion
    assert (completion.text, completion.reasoning) == ("4", "hm, 4?")


async def test_hints(settings: DistillationConfig, teacher_server: TeacherServer) -> None:
    teacher_server.set(
        headers={
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-limit-tokens": "90000",
        }
    )
    async with opened(settings) as provider:
        reply = await provider.complete(request())
    assert reply.hints == RateHints(500, 90000, 499, None, None)


async def test_no_usage_counts_nothing_and_has_no_cost(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    teacher_server.set(usage=False)
    priced = settings.model_copy(update={"teacher": "openai/gpt-4o-mini"})
    async with opened(priced) as provider:
        completion = (await provider.complete(request())).completion
    assert completion.usage == Usage()
    assert completion.cost_usd is None


async def test_truncated_is_said_and_not_failed(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    teacher_server.next(truncated("half an ans"), truncated(""))
    async with opened(settings) as provider:
        first = (await provider.complete(request())).completion
        second = (await provider.complete(request())).completion
    assert (first.text, first.finish_reason) == ("half an ans", "length")
    assert (second.text, second.finish_reason) == ("", "length")


async def test_a_compressed_body(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    teacher_server.next(zipped())
    async with opened(settings) as provider:
        assert len((await provider.complete(request())).completion.text.split()) == 12


FAULTS: list[tuple[str, Act, type[CallError], str, int | None]] = [
    ("bad key", status(401, "bad key", type="invalid_request_error"), FatalProviderError, "auth", 401),
    ("echoed key", echo_key(), FatalProviderError, "auth", 401),
    ("no credit", status(429, error_code="insufficient_quota"), FatalProviderError, "quota", 429),
    ("no model", status(404, error_code="model_not_found"), FatalProviderError, "not_found", 404),
    ("too fast", status(429, headers={"Retry-After": "3"}), TransientError, "rate_limit", 429),
    ("overloaded", status(529, "Overloaded"), TransientError, "overloaded", 529),
    ("server error", status(500), TransientError, "server_error", 500),
    ("unavailable", status(503), TransientError, "server_error", 503),
    ("gateway page", html(502), TransientError, "server_error", 502),
    ("gateway timeout", html(504), TransientError, "timeout", 504),
    ("too long", status(400, "prompt is too long"), RequestRejectedError, "context_length", 400),
    ("filter", status(400, error_code="content_filter"), RequestRejectedError, "content_filter", 400),
    ("filtered answer", answered("", "content_filter"), RequestRejectedError, "content_filter", None),
    ("refusal", answered("", refusal="I can't help"), RequestRejectedError, "refusal", None),
    ("bad request", status(400, type="invalid_request_error"), RequestRejectedError, "bad_request", 400),
    ("parameter", status(400, param="temperature"), FatalProviderError, "parameter", 400),
    ("page with 200", html(200), TransientError, "bad_body", None),
    ("no JSON", raw("hello"), TransientError, "bad_body", None),
    ("empty body", raw(""), TransientError, "bad_body", None),
    ("JSON list", raw("[1, 2]"), TransientError, "bad_body", None),
    ("no choices", raw('{"object": "c", "choices": []}'), TransientError, "bad_body", None),
    ("empty answer", answered(" "), TransientError, "empty", None),
    ("cut body", cut(), TransientError, "bad_body", None),
    ("bad gzip", bad_zip(), TransientError, "bad_body", None),
    ("dropped", drop(), TransientError, "connection", None),
    ("error in a 200", error_inside_200(), TransientError, "server_error", None),
    ("limit in a 200", error_inside_200("Rate limit exceeded", 429), TransientError, "rate_limit", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("act", "fate", "kind", "code"),
    [case[1:] for case in FAULTS],
    ids=[case[0] for case in FAULTS],
)
async def test_faults(
    settings: DistillationConfig,
    teacher_server: TeacherServer,
    act: Act,
    fate: type[CallError],
    kind: str,
    code: int | None,
) -> None:
    teacher_server.next(act)
    error = await fault(settings)
    assert (type(error), error.kind) == (fate, kind)
    assert code is None or error.status == code
    assert teacher_server.total == 1, "nothing below us may try again"
    assert KEY not in repr(error)
    assert len(error.message) < 400


async def test_an_endless_body_is_not_read_to_its_end(teacher_server: TeacherServer) -> None:
    teacher_server.next(raw(" " * (LARGEST_BODY + 1)))
    error = await fault(config_for(teacher_server.url))
    assert error.kind == "bad_body"
    assert "32 MiB" in error.message


@pytest.mark.parametrize("hint", ["seconds", "date", "milliseconds", "openai", "anthropic"])
async def test_the_wait_that_a_refusal_asks_for(
    settings: DistillationConfig, teacher_server: TeacherServer, hint: str
) -> None:
    teacher_server.set(rate=1, window=30, hint=hint)
    async with opened(settings) as provider:
        await provider.complete(request())
    error = await fault(settings)
    assert isinstance(error, TransientError)
    assert error.is_refusal
    assert error.retry_after == pytest.approx(30, abs=2)


async def test_a_filtered_answer_says_what_it_cost(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    teacher_server.next(answered("no no no", "content_filter"))
    error = await fault(settings)
    assert error.usage == Usage(3, 3)


async def test_a_hung_connection_ends(teacher_server: TeacherServer) -> None:
    for transport in ("auto", "litellm"):
        teacher_server.next(hang())
        error = await fault(
            config_for(teacher_server.url, transport=transport, timeout_seconds=0.3)
        )
        assert (type(error), error.kind) == (TransientError, "timeout")
        assert "0.3 s" in error.message


async def test_nobody_there(settings: DistillationConfig) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    away = config_for(base, transport=settings.transport)
    error = await fault(away)
    assert (type(error), error.kind) == (TransientError, "connection")


async def test_schema_in_each_form(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    for form in ("json_schema", "tools", "json", "text"):
        own = settings.model_copy(update={"structured_output": form})
        async with opened(own) as provider:
            completion = (await provider.complete(request(schema=SCHEMA))).completion
        assert set(json.loads(completion.text)) == {"label", "why"}, form
    native, tools, json_mode, text = (call.body for call in teacher_server.calls)
    assert native["response_format"]["json_schema"]["strict"] is True
    assert tools["tools"][0]["function"]["parameters"]["properties"] == SCHEMA["properties"]
    assert json_mode["response_format"] == {"type": "json_object"}
    assert "response_format" not in text
    assert '"label"' in text["messages"][0]["content"]
    assert text["messages"][0]["content"].startswith("Be brief.")


async def test_user_parameters_arrive(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    asked = request(
        max_tokens=7, top_p=0.5, seed=3, stop=["END"], top_k=4, extra_body={"guided": {"a": 1}}
    )
    async with opened(settings) as provider:
        await provider.complete(asked)
    body = teacher_server.calls[0].body
    wanted = {"max_tokens": 7, "top_p": 0.5, "seed": 3, "stop": ["END"], "top_k": 4}
    assert {name: body[name] for name in wanted} == wanted


async def test_the_hosts_client_does_not_try_again(teacher_server: TeacherServer) -> None:
    """LiteLLM leaves the OpenAI client's own two retries on for some hosts."""
    for params in ({}, {"allowed_openai_params": ["logit_bias"], "logit_bias": {"1": 1}}):
        teacher_server.forget()
        teacher_server.next(status(500))
        model = "nvidia_nim/any"
        settings = config_for(teacher_server.url, teacher=model, transport="litellm")
        error = await fault(settings, model=model, **params)
        assert error.kind == "server_error"
        assert teacher_server.total == 1


async def test_headers_of_the_user_arrive(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    kwargs = settings.litellm_kwargs | {"extra_headers": {"X-Team": "blue"}}
    async with opened(settings.model_copy(update={"litellm_kwargs": kwargs})) as provider:
        await provider.complete(request())
    assert teacher_server.calls[0].headers["X-Team"] == "blue"


async def test_the_key_is_nowhere_in_what_comes_out(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    teacher_server.set(headers={"x-ratelimit-limit-requests": KEY, "X-Echo": KEY})
    async with opened(settings) as provider:
        reply = await provider.complete(request())
        assert KEY not in repr(reply)
        assert KEY not in provider.endpoint
    for act in (echo_key(), echo_key(403), raw(f"your key {KEY}"), raw(f'{{"error": "{KEY}"}}')):
        teacher_server.next(act)
        assert KEY not in repr(vars(await fault(settings)))


async def test_two_open_at_once_and_one_closed(
    settings: DistillationConfig, teacher_server: TeacherServer
) -> None:
    async with opened(settings) as first:
        async with opened(settings) as second:
            await second.complete(request())
        await first.complete(request())
    async with opened(settings) as third:
        await third.complete(request())
