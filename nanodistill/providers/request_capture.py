"""What LiteLLM would send, learned from LiteLLM itself.

The direct transport has to be equivalent to LiteLLM's: the same address, headers, model name and
parameters (`max_tokens` or `max_completion_tokens`, what goes into the body from `extra_body`,
what `drop_params` leaves out, which key from which variable). Rather than keep a table of all
that for some seventy providers, one call is made through LiteLLM for each shape of request, over
an HTTP session that writes down what it is given and then ends the call before any connection is
made. What was written down is the template for the calls of this shape.

If LiteLLM would send anything but the messages as they are, in OpenAI's chat format to
`…/chat/completions`, there is no template, and the call goes through LiteLLM.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
from anyio import to_thread

from nanodistill.providers.lazy_imports import load_litellm, quiet
from nanodistill.types import Message

PATH = "/chat/completions"
SEED = 1234567890123
SECONDS = 60.0
PROBE: tuple[Message, ...] = (
    {"role": "system", "content": "system"},
    {"role": "user", "content": "user"},
)
CLIENTS_OWN = frozenset({"host", "content-length", "connection", "accept-encoding", "user-agent"})


@dataclass(frozen=True)
class RequestTemplate:
    """A request without its messages and seed. `seed` is what the provider calls it."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    seed: str | None

    def fill(self, messages: list[Message], seed: int | None) -> bytes:
        """The bytes of a request's body."""
        body = {**self.body, "messages": messages}
        if self.seed is not None:
            body[self.seed] = seed
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


class _Written(BaseException):
    """Ends LiteLLM's call once its request is written down; no retry catches it."""


async def capture_request(model: str, arguments: Mapping[str, Any]) -> RequestTemplate | None:
    """The template of calls with these arguments; None where they have to go through LiteLLM.

    Raises:
        Whatever LiteLLM raises of the arguments.
    """
    return await to_thread.run_sync(_capturer().learn, model, arguments)


class OfflineEventLoop(asyncio.SelectorEventLoop):
    """An event loop from which nothing connects to anywhere."""

    async def create_connection(self, *_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError("no connections while learning")

    async def sock_connect(self, *_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError("no connections while learning")


class RequestCapturer:
    """LiteLLM on an island: what it would send is written down by our session.

    The loop is its own because LiteLLM keeps its clients by event loop, and on one that it makes
    real calls on it would use such a client in place of the session that it is handed. A LiteLLM
    that goes round our session all the same finds no way off the island.
    """

    def __init__(self) -> None:
        self._litellm = load_litellm()
        self._loop = OfflineEventLoop()
        self._turn = threading.Lock()
        self._written: list[aiohttp.ClientRequest] = []
        self._session: aiohttp.ClientSession | None = None

    def learn(self, model: str, arguments: Mapping[str, Any]) -> RequestTemplate | None:
        shape = dict(arguments) | {"timeout": SECONDS}
        if shape.get("seed") is not None:
            shape["seed"] = SEED
        with self._turn, quiet():
            self._written.clear()
            self._loop.run_until_complete(self._ask(model, shape))
            return template_in(self._written[0]) if self._written else None

    def close(self) -> None:
        with self._turn:
            if self._session is not None:
                self._loop.run_until_complete(self._session.close())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _ask(self, model: str, shape: Mapping[str, Any]) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(middlewares=(self._write_down,))
        with suppress(_Written, self._litellm.Timeout, *self._unreachable()):
            await self._litellm.acompletion(
                model=model, messages=list(PROBE), shared_session=self._session, **shape
            )

    async def _write_down(
        self, request: aiohttp.ClientRequest, _: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        self._written.append(request)
        raise _Written

    def _unreachable(self) -> tuple[type[Exception], ...]:
        """What LiteLLM makes of the lack of a connection, where it went round our session."""
        return (self._litellm.APIConnectionError, self._litellm.InternalServerError)


@cache
def _capturer() -> RequestCapturer:
    learner = RequestCapturer()
    atexit.register(learner.close)
    return learner


def template_in(request: aiohttp.ClientRequest) -> RequestTemplate | None:
    """The template in one request, if it is one of OpenAI's chat format."""
    if request.method != "POST" or not request.url.path.endswith(PATH):
        return None
    body = body_of(request)
    if body is None or body.pop("messages", None) != list(PROBE) or body.get("stream"):
        return None
    seed = next((name for name, value in body.items() if value == SEED), None)
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() not in CLIENTS_OWN and not name.lower().startswith("x-stainless-")
    }
    return RequestTemplate(str(request.url), headers, body, seed)


def body_of(request: aiohttp.ClientRequest) -> dict[str, Any] | None:
    payload = request.body
    if not isinstance(payload, aiohttp.BytesPayload):
        return None
    try:
        body = json.loads(payload.decode())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
