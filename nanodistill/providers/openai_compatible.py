"""Direct HTTP to endpoints that speak OpenAI's chat format: aiohttp, and nothing between.

LiteLLM still says who is called, with which key, where and how (`request_capture`); a call through
it costs some 8 ms of processor time, a direct one a twentieth. Proxy variables and company
certificates are honoured as LiteLLM honours them. What comes back is read by the same parser and
judged by the same table as LiteLLM's answers.

Request shapes that LiteLLM would not send as they are go through LiteLLM, call by call.
"""

from __future__ import annotations

import json
import ssl
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio

from nanodistill import __version__
from nanodistill.providers.base import Reply
from nanodistill.providers.error_classifier import ErrorClassifier
from nanodistill.providers.exception_table import ErrorDetails
from nanodistill.providers.litellm import LiteLLMProvider, TransportConfig
from nanodistill.providers.rate_limit_headers import parse_rate_limits
from nanodistill.providers.request_capture import RequestTemplate, capture_request
from nanodistill.providers.structured_output import RequestOverlay
from nanodistill.types import Request, canonical_json

LARGEST_BODY = 32 * 1024**2
"""Bytes; an answer has some thousand."""
IDLE_SECONDS = 15.0
"""Less than the idle time after which the usual servers close a connection."""


class OpenAICompatibleProvider:
    """Answers over connections of our own.

    Args:
        way: how calls of this teacher travel.
        detour: takes the request shapes that can't go directly.
        certificates: what https connections trust; False trusts all.
    """

    def __init__(
        self, way: TransportConfig, detour: LiteLLMProvider, certificates: ssl.SSLContext | bool
    ) -> None:
        self._way = way
        self._fallback = detour
        self._certificates = certificates
        self._templates: dict[tuple[int, str], RequestTemplate | None] = {}
        self._proxies: dict[str, str | None] = {}
        self._learning = anyio.Lock()
        self._session: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> str:
        return self._way.endpoint

    async def complete(self, request: Request) -> Reply:
        return await self._way.structured.ask(
            request, lambda wording: self._attempt(request, wording)
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self._fallback.aclose()

    async def _template(self, request: Request, wording: RequestOverlay) -> RequestTemplate | None:
        """How requests of this shape look; learned once."""
        sent = self._way.structured.parameters.sent(request.params)
        shape = {name: value for name, value in sent.items() if name != "seed"}
        shape |= {"seed": "any"} if sent.get("seed") is not None else {}
        key = (id(wording), canonical_json(shape))
        if key not in self._templates:
            async with self._learning:
                if key not in self._templates:
                    arguments = self._way.arguments(request, wording)
                    with self._way.reader.faults.translate_errors():
                        self._templates[key] = await capture_request(self._way.model, arguments)
        return self._templates[key]

    async def _attempt(self, request: Request, wording: RequestOverlay) -> Reply:
        template = await self._template(request, wording)
        if template is None:
            return await self._fallback.attempt(request, wording)
        messages = wording.words(request.messages)
        return await self._post(template, template.fill(messages, request.params.get("seed")))

    async def _post(self, template: RequestTemplate, body: bytes) -> Reply:
        way, started = self._way, time.perf_counter()
        with way.reader.faults.translate_errors(way.timeout):
            async with self._open_session().post(
                template.url,
                headers=template.headers,
                data=body,
                proxy=self._proxy(template.url),
            ) as response:
                text = await read_body(response, way.reader.faults)
        latency = time.perf_counter() - started
        headers = response.headers
        if response.status >= 300:
            words = text.decode(errors="replace")
            raise way.reader.faults.of_http(ErrorDetails.of_text(response.status, words, headers))
        completion = way.reader.read(parsed(text, way.reader.faults), headers, latency)
        return Reply(completion, parse_rate_limits(headers))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, ssl=self._certificates, keepalive_timeout=IDLE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"nanodistill/{__version__}"},
                timeout=aiohttp.ClientTimeout(total=self._way.timeout),
            )
        return self._session

    def _proxy(self, url: str) -> str | None:
        if url not in self._proxies:
            self._proxies[url] = proxy_for(url)
        return self._proxies[url]


def proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, ALL_PROXY, NO_PROXY and their like name for an address.

    aiohttp's own `trust_env` asks the environment in a thread for every call, which takes more
    time than all the rest.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(parts.hostname or ""):
        return None
    return found if "://" in found else f"http://{found}"


async def read_body(response: aiohttp.ClientResponse, faults: ErrorClassifier) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > LARGEST_BODY:
            raise faults.make("bad_body", f"more than {LARGEST_BODY // 1024**2} MiB")
    return bytes(body)


def parsed(text: bytes, faults: ErrorClassifier) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        words = text.decode(errors="replace")
        raise faults.make("bad_body", words or "an empty body") from None
