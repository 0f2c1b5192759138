"""A key that a provider echoes, in every way that we know, comes out nowhere."""

from __future__ import annotations

import json
import logging
import traceback

import pytest

from nanodistill.errors import CallError
from nanodistill.providers.factory import open_provider
from providers.opened import KEY, SCHEMA, config, config_for, opened, request
from providers.server import Act, TeacherServer, cut, drop, echo_key, raw, status

pytestmark = pytest.mark.anyio

BODIES = [
    json.dumps({"error": {"message": f"bad key {KEY}", "code": KEY, "param": KEY}}),
    json.dumps({"error": KEY}),
    json.dumps({"detail": [{"msg": f"Bearer {KEY}"}]}),
    json.dumps({"choices": KEY, "usage": KEY}),
    f"<html><title>{KEY}</title></html>",
    f"key={KEY}",
    KEY[:-3] + "\\u0064ef",
]
ACTS: list[Act] = [
    *(raw(body, code) for body in BODIES for code in (200, 400, 401, 429, 502)),
    *(echo_key(code) for code in (400, 401, 403, 500)),
    status(429, KEY, headers={"Retry-After": "1", "X-Key": KEY}),
    cut(),
    drop(),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("transport", ["auto", "litellm"])
async def test_errors(
    teacher_server: TeacherServer,
    transport: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = config_for(teacher_server.url, transport=transport, structured_output="json_schema")
    async with opened(settings) as provider:
        for act in ACTS:
            teacher_server.next(act)
            with pytest.raises(CallError) as caught:
                await provider.complete(request(schema=SCHEMA))
            shown = "".join(traceback.format_exception(caught.value))
            assert KEY not in shown + repr(caught.value) + repr(vars(caught.value))
    heard = capfd.readouterr()
    assert (heard.out, heard.err) == ("", ""), "nothing below us may print"
    assert KEY not in caplog.text


async def test_a_key_of_the_environment(
    teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    own = config(teacher="openai/any", litellm_kwargs={"api_base": teacher_server.url})
    teacher_server.next(echo_key())
    async with opened(own) as provider:
        with pytest.raises(CallError) as caught:
            await provider.complete(request())
    assert teacher_server.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)


async def test_a_password_in_the_base_url(teacher_server: TeacherServer) -> None:
    base = teacher_server.url.replace("http://", f"http://me:{KEY}@")
    teacher_server.next(raw(f"hello me:{KEY}", 500))
    async with opened(config(litellm_kwargs={"api_base": base, "api_key": "k" * 9})) as provider:
        assert KEY not in provider.endpoint
        with pytest.raises(CallError) as caught:
            await provider.complete(request())
    assert KEY not in str(caught.value)


def test_a_provider_shows_no_key() -> None:
    provider = open_provider(config_for("http://127.0.0.1:9/v1"))
    assert KEY not in repr(provider)
