"""The direct transport sends what LiteLLM sends, whoever the provider is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from nanodistill.errors import CallError
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.request_capture import capture_request
from providers.opened import KEY, SCHEMA, config_for, opened, request
from providers.server import TeacherServer

pytestmark = pytest.mark.anyio

PARAMETERS: list[Mapping[str, Any]] = [
    {},
    {"temperature": 0.2, "max_tokens": 40, "top_p": 0.9, "stop": ["END"], "seed": 7},
    {"max_completion_tokens": 40, "extra_body": {"top_k": 3}, "min_p": 0.1},
]
MODELS = [
    "openai/any",
    "openai/gpt-4o",
    "openai/o1",
    "openai/gpt-5-mini",
    "hosted_vllm/any",
    "lm_studio/any",
    "llamafile/any",
    "groq/any",
    "deepseek/deepseek-chat",
    "together_ai/any",
    "fireworks_ai/any",
    "openrouter/a/b",
    "mistral/any",
    "xai/any",
    "nvidia_nim/any",
    "cerebras/any",
    "perplexity/any",
]
OURS_TO_DIFFER = {"user-agent", "content-length", "accept-encoding", "host", "connection"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def shown(headers: Mapping[str, str]) -> dict[str, str]:
    lower = {name.lower(): value for name, value in headers.items()}
    return {
        name: value
        for name, value in lower.items()
        if name not in OURS_TO_DIFFER and not name.startswith("x-stainless")
    }


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["plain", "schema"])
@pytest.mark.parametrize("params", PARAMETERS, ids=["bare", "usual", "further"])
@pytest.mark.parametrize("model", MODELS)
async def test_both_transports_send_the_same(
    teacher_server: TeacherServer,
    model: str,
    params: Mapping[str, Any],
    schema: dict[str, Any] | None,
) -> None:
    kwargs = {"drop_params": True, "extra_headers": {"X-Team": "blue"}}
    asked = request("Grüß dich ☃", model=model, schema=schema, **params)
    for transport in ("litellm", "auto"):
        settings = config_for(
            teacher_server.url,
            teacher=model,
            transport=transport,
            structured_output="json_schema",
            litellm_kwargs=kwargs,
        )
        async with opened(settings) as provider:
            with suppress(CallError):  # LiteLLM can't read every host's plain answer
                await provider.complete(asked)
    through_litellm, direct = teacher_server.calls
    assert "nanodistill" in direct.headers["User-Agent"]
    assert direct.path == through_litellm.path
    assert direct.body == through_litellm.body
    assert shown(direct.headers) == shown(through_litellm.headers)


async def test_keys_of_the_environment_are_found(
    teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-of-the-environment")
    template = await capture_request("deepseek/deepseek-chat", {"api_base": teacher_server.url})
    assert template is not None
    assert template.headers["authorization"] == "Bearer sk-of-the-environment"
    assert template.url == f"{teacher_server.url}/chat/completions"
    assert teacher_server.total == 0


async def test_nothing_is_sent_while_learning(teacher_server: TeacherServer) -> None:
    """Nor by the clients that LiteLLM keeps from earlier calls, its own or while learning."""
    litellm = load_litellm()
    for model in ("openai/any", "hosted_vllm/any", "deepseek/any", "mistral/any"):
        arguments = {"api_base": teacher_server.url, "api_key": KEY}
        with suppress(litellm.exceptions.APIError, litellm.exceptions.APIConnectionError):
            await litellm.acompletion(
                model=model, messages=[{"role": "user", "content": "x"}], **arguments
            )
        sent = teacher_server.total
        for temperature in (0.1, 0.2, 0.3):
            assert (
                await capture_request(model, arguments | {"temperature": temperature}) is not None
            )
        assert teacher_server.total == sent
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.mark.parametrize("model", ["anthropic/claude-x", "ollama_chat/any", "gemini/any"])
async def test_other_formats_have_no_template(teacher_server: TeacherServer, model: str) -> None:
    arguments = {"api_base": teacher_server.root, "api_key": KEY}
    assert await capture_request(model, arguments) is None
    assert teacher_server.total == 0


async def test_shapes_that_litellm_sends_elsewhere_go_through_litellm(
    teacher_server: TeacherServer,
) -> None:
    """gpt-5-pro is asked through another of OpenAI's addresses, which our server lacks."""
    settings = config_for(
        teacher_server.url, teacher="openai/gpt-5-pro", litellm_kwargs={"drop_params": True}
    )
    async with opened(settings) as provider:
        with pytest.raises(CallError) as refused:
            await provider.complete(request(model="openai/gpt-5-pro"))
    assert refused.value.status == 404
    assert teacher_server.total == 0
