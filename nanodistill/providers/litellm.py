"""Any provider, through LiteLLM.

One call, no retries anywhere below: LiteLLM's own are off, and so are those of the OpenAI client
beneath it, which LiteLLM leaves at two for hosts whose parameters it checks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from nanodistill.providers.base import Reply
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.rate_limit_headers import parse_rate_limits
from nanodistill.providers.response_parser import ResponseParser
from nanodistill.providers.structured_output import RequestOverlay, StructuredOutput
from nanodistill.types import Request


@dataclass(frozen=True)
class TransportConfig:
    """How calls to one teacher travel, and how what comes back is read.

    `settings` are what every call sends and no request's key holds (API key, base URL, headers,
    …); a request's own parameters take precedence. `timeout` is in seconds, for one attempt
    from the first byte sent to the last received.
    """

    model: str
    endpoint: str
    settings: Mapping[str, Any]
    timeout: float
    structured: StructuredOutput
    reader: ResponseParser

    def arguments(self, request: Request, wording: RequestOverlay) -> dict[str, Any]:
        """What LiteLLM is handed besides model and messages."""
        sent = self.structured.parameters.sent(request.params)
        given = {**self.settings, **sent, **wording.arguments}
        allowed = "allowed_openai_params"
        if allowed in request.params and allowed in self.settings:
            given[allowed] = [*self.settings[allowed], *request.params[allowed]]
        return given


class LiteLLMProvider:
    """Answers through `litellm.acompletion`."""

    _open = 0

    def __init__(self, way: TransportConfig, on_close: Callable[[], None] | None = None) -> None:
        self._litellm = load_litellm()
        self._way = way
        self._on_close = on_close
        LiteLLMProvider._open += 1

    @property
    def endpoint(self) -> str:
        return self._way.endpoint

    async def complete(self, request: Request) -> Reply:
        return await self._way.structured.ask(
            request, lambda wording: self.attempt(request, wording)
        )

    async def aclose(self) -> None:
        """Close LiteLLM's connections with the last provider: they are the process's own."""
        LiteLLMProvider._open -= 1
        if not LiteLLMProvider._open:
            await self._litellm.close_litellm_async_clients()
            self._litellm.in_memory_llm_clients_cache.flush_cache()
        if self._on_close is not None:
            await to_thread.run_sync(self._on_close)

    async def attempt(self, request: Request, wording: RequestOverlay) -> Reply:
        """One call, in one form of structured output."""
        way, started = self._way, time.perf_counter()
        arguments = way.arguments(request, wording) | {"timeout": way.timeout}
        messages = wording.words(request.messages)
        with way.reader.faults.translate_errors(way.timeout):
            async with asyncio.timeout(way.timeout):
                response = await self._litellm.acompletion(
                    model=way.model, messages=messages, **arguments
                )
        latency = time.perf_counter() - started
        headers = response._hidden_params.get("additional_headers") or {}
        completion = way.reader.read(response.model_dump(), headers, latency)
        return Reply(completion, parse_rate_limits(headers))


def without_retries(settings: Mapping[str, Any], provider: str) -> dict[str, Any]:
    """The settings with every retry below us turned off.

    LiteLLM drops `max_retries` for hosts that it takes for OpenAI-compatible and whose list of
    parameters lacks it; the OpenAI client then tries three times. `allowed_openai_params` gets
    it through to the client.
    """
    quiet = dict(settings) | {"num_retries": 0, "max_retries": 0}
    if provider in load_litellm().openai_compatible_providers:
        quiet["allowed_openai_params"] = ["max_retries"]
    return quiet
