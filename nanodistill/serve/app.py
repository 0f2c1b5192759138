"""The HTTP side: limits, queue, callers, API key, routes, streams.

    POST /v1/chat/completions     GET /v1/models     GET /health

Every error is JSON in OpenAI's format. No web page can use the server behind its
user's back: refused are requests for a host name that is not ours (a name somebody
pointed at this machine), and requests of pages of another origin, unless allowed by
name.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from aiohttp import web

from nanodistill.events import Listener, Notice
from nanodistill.serve.completions import CompletionRequest, Completions, Ended
from nanodistill.serve.protocol import APIError, ChatRequest, ResponseBuilder, read_request
from nanodistill.serve.reasoning_parser import Piece
from nanodistill.types import tagged_hash

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from nanodistill.serve.served_model import ServedModel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DELTA_FIELDS = {"thinking": "reasoning_content", "content": "content"}
# Weight of the newest request in the mean duration, which only sets Retry-After. Half adapts more
# slowly, double lets one long answer send everybody away for long.
SMOOTHING = 0.2
SHUTTING_DOWN = "The server is shutting down."


@dataclass(frozen=True)
class Limits:
    """What the server takes on; beyond these, requests are refused.

    The defaults suit one person or a small team on a laptop.

    Attributes:
        batch: requests answered at the same time.
        queue: further requests that may wait.
        seconds: for one request, waiting included.
        grace: seconds for running requests after the server was told to stop.
        body: bytes of a request's body, which must arrive within `body_seconds`.
        header_seconds: until a connection without a complete request is closed.
        schema_seconds: for compiling a schema, and for checking an answer against it.
    """

    batch: int
    queue: int = 64
    seconds: float = 300.0
    grace: float = 20.0
    body: int = 1 << 20
    body_seconds: float = 30.0
    header_seconds: float = 20.0
    schema_seconds: float = 10.0


@dataclass
class Queue:
    """Counts the requests in flight, and estimates how long one takes."""

    limits: Limits
    in_flight: int = 0
    draining: bool = False
    served: int = 0
    seconds: float = 1.0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot.

        Raises:
            APIError: there is none, or the server is shutting down.
        """
        batch = self.limits.batch
        if self.draining:
            raise APIError(503, SHUTTING_DOWN, retry_after=5)
        if self.in_flight >= batch + self.limits.queue:
            waiting = self.in_flight - batch
            raise APIError(
                429,
                f"The queue is full: {batch} requests are being answered and {waiting} wait.",
                code="queue_full",
                retry_after=max(1, math.ceil(self.seconds * waiting / batch)),
            )
        self.in_flight += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.served += 1
            self.seconds += SMOOTHING * (time.monotonic() - begun - self.seconds)


class Service:
    """The route handlers, and what they share."""

    def __init__(
        self, model: ServedModel, completions: Completions, limits: Limits, on_event: Listener
    ) -> None:
        self.queue = Queue(limits)
        self.busy: set[RequestHandler] = set()  # connections with a request in progress
        self._scopes: set[anyio.CancelScope] = set()  # of the requests being answered
        self._end = math.inf
        self._model = model
        self._completions = completions
        self._limits = limits
        self._on_event = on_event
        self._created = int(time.time())
        self._fingerprint = f"fp_{tagged_hash('nanodistill.served.v1', model.identity)[:12]}"

    def app(self, api_key: str | None, callers: Callers) -> web.Application:
        app = web.Application(
            client_max_size=self._limits.body,
            middlewares=[self._handle_errors, callers.check, _require_key(api_key)],
        )
        app.on_response_prepare.append(callers.set_headers)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{name}", self.model)
        app.router.add_get("/health", self.health)
        return app

    def drain(self) -> None:
        """Refuse new requests, and end those in flight once the grace has passed."""
        self.queue.draining = True
        self._end = anyio.current_time() + self._limits.grace
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._end)

    @contextmanager
    def _fail_at(self, deadline: float) -> Iterator[None]:
        """Raises TimeoutError once `deadline`, or the grace of a shutdown, has passed."""
        with anyio.fail_after(min(deadline, self._end) - anyio.current_time()) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def health(self, _: web.Request) -> web.Response:
        status = "draining" if self.queue.draining else "ok"
        body = {"status": status, "model": self._model.name, "requests": self.queue.in_flight}
        return web.json_response(body, status=503 if self.queue.draining else 200)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._model_entry()]})

    async def model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["name"])
        return web.json_response(self._model_entry())

    async def chat(self, request: web.Request) -> web.StreamResponse:
        chat = read_request(await self._read_body(request))
        self._check_model(chat.model)
        with self.queue.slot():
            deadline = anyio.current_time() + self._limits.seconds
            try:
                with self._fail_at(deadline):
                    prepared = await self._completions.prepare(chat)
                    if not chat.stream:
                        return await self._complete(prepared)
                return await self._stream(request, chat, prepared, deadline)
            except TimeoutError as error:
                raise self._timeout_error() from error

    async def _complete(self, prepared: CompletionRequest) -> web.Response:
        texts = {"thinking": "", "content": ""}
        async with aclosing(self._completions.pieces(prepared)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Piece):
                    texts[piece.kind] += piece.text
                else:
                    ended = piece
        builder = ResponseBuilder(self._model.name, self._fingerprint)
        thinking = texts["thinking"] or None
        body = builder.completion(texts["content"], thinking, ended.reason, ended.usage)
        return web.json_response(body)

    async def _stream(
        self, request: web.Request, chat: ChatRequest, prepared: CompletionRequest, deadline: float
    ) -> web.StreamResponse:
        """Server-sent events. An error before the first piece still gets a status of its own."""
        builder = ResponseBuilder(self._model.name, self._fingerprint)
        async with aclosing(self._completions.pieces(prepared)) as pieces:
            with self._fail_at(deadline):
                first = await anext(pieces)
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
            )
            await response.prepare(request)
            try:
                with self._fail_at(deadline):
                    await _send(response, builder.chunk({"role": "assistant", "content": ""}))
                    await self._send_pieces(response, builder, chat, first, pieces)
            except ConnectionResetError:
                return response  # the client has hung up
            except Exception as error:  # noqa: BLE001 - reported inside the stream that has begun
                is_late = isinstance(error, TimeoutError)
                reported = self._timeout_error() if is_late else self._api_error(error)
                with suppress(ConnectionResetError):
                    await _send(response, reported.to_json())
        with suppress(ConnectionResetError):
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    async def _send_pieces(
        self,
        response: web.StreamResponse,
        builder: ResponseBuilder,
        chat: ChatRequest,
        first: Piece | Ended,
        rest: AsyncGenerator[Piece | Ended],
    ) -> None:
        piece = first
        while isinstance(piece, Piece):
            await _send(response, builder.chunk({DELTA_FIELDS[piece.kind]: piece.text}))
            piece = await anext(rest)
        await _send(response, builder.chunk({}, piece.reason))
        if chat.include_usage:
            await _send(response, builder.usage_chunk(piece.usage))

    async def _read_body(self, request: web.Request) -> Any:
        if request.content_type != "application/json":
            raise APIError(415, "Send the body as application/json.")
        try:
            with anyio.fail_after(self._limits.body_seconds):
                return json.loads(await request.read())
        except TimeoutError as error:
            raise APIError(408, "The body did not arrive in time.") from error
        except (ValueError, RecursionError) as error:
            raise APIError(400, f"The body is not JSON: {error}") from error

    def _check_model(self, name: str) -> None:
        if name != self._model.name:
            raise APIError(
                404,
                f"Unknown model {name!r}; this server has {self._model.name!r}.",
                code="model_not_found",
                param="model",
            )

    def _model_entry(self) -> dict[str, Any]:
        return {
            "id": self._model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "nanodistill",
        }

    def _timeout_error(self) -> APIError:
        if anyio.current_time() >= self._end:
            return APIError(503, SHUTTING_DOWN, code="shutting_down", retry_after=5)
        message = f"The answer took over {self._limits.seconds:g} s."
        return APIError(503, message, code="timeout", retry_after=5)

    @web.middleware
    async def _handle_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.busy.add(request.protocol)
        try:
            return await handler(request)
        except ConnectionResetError:
            raise  # nobody is left to answer
        except web.HTTPException as error:
            return _error_response(APIError(error.status, error.reason), error.headers)
        except Exception as error:  # noqa: BLE001 - a failed request must not end the server
            return _error_response(self._api_error(error))
        finally:
            self.busy.discard(request.protocol)

    def _api_error(self, error: Exception) -> APIError:
        """What the client learns. An error that it did not cause is reported to the operator."""
        if isinstance(error, APIError):
            return error
        message = f"a request failed: {type(error).__name__}: {error}"
        self._on_event(Notice(message, "warning"))
        return APIError(500, "The answer could not be computed.")


@dataclass(frozen=True)
class Callers:
    """Who may call, judged by the Host and Origin headers that browsers always send.

    `hosts` are the names of this server, None for any; IP addresses are always accepted, because
    no DNS record can point at us with one. Pages of a host in `trusted` may call.
    """

    hosts: frozenset[str] | None
    trusted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, host: str, api_key: str | None, allowed_hosts: Sequence[str]) -> Callers:
        """Who may call a server that listens on `host`.

        A page can point a name of its own at this machine (DNS rebinding), which its browser then
        sends. With an API key on an address that others reach, any name is accepted until some
        are allowed: such a server can't know its names.
        """
        allowed = frozenset(name.lower().rstrip(".") for name in allowed_hosts)
        if "*" in allowed or (api_key is not None and not allowed and not is_loopback(host)):
            return cls(None, allowed)
        return cls(allowed | {host.lower(), "localhost", socket.gethostname().lower()}, allowed)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        if host and not self._is_own(host):
            raise APIError(
                403,
                f"Host {host!r} is not allowed. The operator can allow it: --allowed-host NAME",
                code="host_not_allowed",
            )
        if not self._may_call(request):
            raise APIError(
                403, "Pages of other sites may not use this server.", code="origin_not_allowed"
            )
        is_preflight = "Origin" in request.headers and (
            "Access-Control-Request-Method" in request.headers
        )
        if request.method == "OPTIONS" and is_preflight:
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            headers = {
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": wanted or "authorization, content-type",
                "Access-Control-Max-Age": "600",
            }
            return web.Response(status=204, headers=headers)
        return await handler(request)

    async def set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the calling page read the response."""
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin is not None and self._may_call(request):
            response.headers["Access-Control-Allow-Origin"] = origin

    def _is_own(self, host: str) -> bool:
        name = _host_of(f"//{host}")
        if name is None:
            return False
        return self.hosts is None or name in self.hosts or _ip_address(name) is not None

    def _may_call(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            # A page's image or form sends no Origin, but says that it is cross-site; so does
            # following a link, which is a person's doing.
            is_cross_site = request.headers.get("Sec-Fetch-Site") == "cross-site"
            return not is_cross_site or request.headers.get("Sec-Fetch-Mode") == "navigate"
        own = f"http://{request.headers.get('Host', '')}"
        is_trusted = "*" in self.trusted or _host_of(origin) in self.trusted
        return origin.lower() == own.lower() or is_trusted


def is_loopback(host: str) -> bool:
    address = _ip_address(host)
    return host == "localhost" if address is None else address.is_loopback


def _host_of(url: str) -> str | None:
    """The host in a URL, None if there is no valid one."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def _ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _require_key(api_key: str | None) -> Any:
    """Middleware that requires the key on every route but /health."""
    expected = f"Bearer {api_key}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is not None and request.path != "/health":
            sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(sent, expected):
                raise APIError(401, "Wrong or missing API key.", code="invalid_api_key")
        return await handler(request)

    return check


async def _send(response: web.StreamResponse, value: Mapping[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")


def _error_response(error: APIError, headers: Mapping[str, str] | None = None) -> web.Response:
    kept = {name: value for name, value in (headers or {}).items() if name == "Allow"}
    if error.retry_after is not None:
        kept["Retry-After"] = str(error.retry_after)
    return web.json_response(error.to_json(), status=error.status, headers=kept)
