"""How much the server takes on.

The HTTP side: routes, key, body, queue, streams.

    POST /v1/chat/completions     GET /v1/models     GET /health

Every error is JSON in OpenAI's form. A browser's page elsewhere can't use the
server behind its user's back: a request whose Host is none of ours (a name that was
led to this machine) is refused, and one of a page of another origin too, unless
that was allowed by name.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Limits:
    """What is beyond these is refused, with a status that says so.

    `batch` requests are answered at once and `queue` more may wait. `seconds`
    is the time that one request may take, waiting included; `grace` how long
    requests may go on after the server was told to stop. `body` is in bytes;
    `schema_seconds` may pass until a request's schema is understood, and until an answer is
    checked against it. A connection without a request, or with half of its
    headers, is closed after `header_seconds`.
    """

    batch: int
    queue: int = 64
    seconds: float = 300.0
    grace: float = 20.0
    body: int = 1 << 20
    body_seconds: float = 30.0
    header_seconds: float = 20.0
    schema_seconds: float = 10.0

    @property
    def requests(self) -> int:
        return self.batch + self.queue


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

FIELD = {"thinking": "reasoning_content", "content": "content"}
SMOOTHING = 0.2
SHUTTING_DOWN = "The server is shutting down."


@dataclass
class Queue:
    """How many requests are in the house, and how long one takes."""

    limits: Limits
    inside: int = 0
    draining: bool = False
    served: int = 0
    seconds: float = field(default=1.0)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises Refused if there is none."""
        if self.draining:
            raise APIError(503, SHUTTING_DOWN, retry_after=5)
        if self.inside >= self.limits.requests:
            waiting = self.inside - self.limits.batch
            wait = self.seconds * waiting / self.limits.batch
            raise APIError(
                429,
                f"{self.limits.batch} requests are being answered and {waiting} wait; "
                "there is no place for more.",
                code="queue_full",
                retry_after=max(1, math.ceil(wait)),
            )
        self.inside += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.inside -= 1
            self.served += 1
            self.seconds += SMOOTHING * (time.monotonic() - begun - self.seconds)


class Service:
    """The handlers, and what they share."""

    def __init__(
        self, choice: ServedModel, answering: Completions, limits: Limits, on_event: Listener
    ) -> None:
        self.queue = Queue(limits)
        self.busy: set[RequestHandler] = set()
        self._scopes: set[anyio.CancelScope] = set()
        self._end = math.inf
        self._choice = choice
        self._answering = answering
        self._limits = limits
        self._listen = on_event
        self._began = int(time.time())
        self._fingerprint = f"fp_{tagged_hash('nanodistill.served.v1', choice.identity)[:12]}"

    def app(self, api_key: str | None, callers: Callers) -> web.Application:
        app = web.Application(
            client_max_size=self._limits.body,
            middlewares=[self._errors, callers.check, _with_key(api_key)],
        )
        app.on_response_prepare.append(callers.tell)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{name}", self.model)
        app.router.add_get("/health", self.health)
        return app

    def drain(self) -> None:
        """Take no new request, and give those inside the grace that they have left."""
        self.queue.draining = True
        self._end = anyio.current_time() + self._limits.grace
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._end)

    @contextmanager
    def _until(self, deadline: float) -> Iterator[None]:
        """Raises TimeoutError once `deadline`, or the grace of a shutdown, has passed."""
        with anyio.fail_after(min(deadline, self._end) - anyio.current_time()) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def health(self, _: web.Request) -> web.Response:
        state = "draining" if self.queue.draining else "ok"
        told = {"status": state, "model": self._choice.name, "requests": self.queue.inside}
        return web.json_response(told, status=503 if self.queue.draining else 200)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["name"])
        return web.json_response(self._model())

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = read_request(await self._body(request))
        self._check_model(asked.model)
        with self.queue.place():
            deadline = anyio.current_time() + self._limits.seconds
            try:
                with self._until(deadline):
                    ask = await self._answering.prepare(asked)
                    if not asked.stream:
                        return await self._whole(ask)
                return await self._stream(request, asked, ask, deadline)
            except TimeoutError as late:
                raise self._late() from late

    async def _whole(self, ask: CompletionRequest) -> web.Response:
        texts = {"thinking": "", "content": ""}
        async with aclosing(self._answering.pieces(ask)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Piece):
                    texts[piece.kind] += piece.text
                else:
                    ended = piece
        answer = self._envelope().completion(
            texts["content"], texts["thinking"] or None, ended.reason, ended.usage
        )
        return web.json_response(answer)

    async def _stream(
        self, request: web.Request, asked: ChatRequest, ask: CompletionRequest, deadline: float
    ) -> web.StreamResponse:
        """Server-sent events. What goes wrong before the first piece still has a status."""
        envelope = self._envelope()
        async with aclosing(self._answering.pieces(ask)) as pieces:
            with self._until(deadline):
                first = await anext(pieces)
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
            )
            await response.prepare(request)
            try:
                with self._until(deadline):
                    await _send(response, envelope.chunk({"role": "assistant", "content": ""}))
                    await self._send_pieces(response, envelope, asked, first, pieces)
            except ConnectionResetError:
                return response  # nobody listens any more
            except Exception as failed:  # noqa: BLE001 - told inside the answer that has begun
                late = isinstance(failed, TimeoutError)
                refused = self._late() if late else self._failure(failed)
                with suppress(ConnectionResetError):
                    await _send(response, refused.to_json())
        with suppress(ConnectionResetError):
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    async def _send_pieces(
        self,
        response: web.StreamResponse,
        envelope: ResponseBuilder,
        asked: ChatRequest,
        first: Piece | Ended,
        rest: AsyncGenerator[Piece | Ended],
    ) -> None:
        piece = first
        while isinstance(piece, Piece):
            await _send(response, envelope.chunk({FIELD[piece.kind]: piece.text}))
            piece = await anext(rest)
        await _send(response, envelope.chunk({}, piece.reason))
        if asked.include_usage:
            await _send(response, envelope.usage_chunk(piece.usage))

    async def _body(self, request: web.Request) -> Any:
        if request.content_type != "application/json":
            raise APIError(415, "Send the body as application/json.")
        try:
            with anyio.fail_after(self._limits.body_seconds):
                return json.loads(await request.read())
        except TimeoutError as slow:
            raise APIError(408, "The body did not come in time.") from slow
        except (ValueError, RecursionError) as broken:
            raise APIError(400, f"The body is not JSON: {broken}") from broken

    def _check_model(self, name: str) -> None:
        if name != self._choice.name:
            raise APIError(
                404,
                f"There is no model {name!r} here; there is {self._choice.name!r}.",
                code="model_not_found",
                param="model",
            )

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._choice.name,
            "object": "model",
            "created": self._began,
            "owned_by": "nanodistill",
        }

    def _envelope(self) -> ResponseBuilder:
        return ResponseBuilder(self._choice.name, self._fingerprint)

    def _late(self) -> APIError:
        if anyio.current_time() >= self._end:
            return APIError(503, SHUTTING_DOWN, code="shutting_down", retry_after=5)
        seconds = self._limits.seconds
        return APIError(
            503, f"The answer was not there after {seconds:g} s.", code="timeout", retry_after=5
        )

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.busy.add(request.protocol)
        try:
            return await handler(request)
        except ConnectionResetError:
            raise  # nobody is left to be told
        except web.HTTPException as other:
            return _error(APIError(other.status, other.reason), other.headers)
        except Exception as failed:  # noqa: BLE001 - one request's failure is not the server's
            return _error(self._failure(failed))
        finally:
            self.busy.discard(request.protocol)

    def _failure(self, failed: Exception) -> APIError:
        """What a client is told; what is not its doing is told to whoever serves."""
        if isinstance(failed, APIError):
            return failed
        told = f"{type(failed).__name__}: {failed}"
        self._listen(Notice(f"a request failed: {told}", "warning"))
        return APIError(500, "The answer could not be computed.")


@dataclass(frozen=True)
class Callers:
    """Who may call, by the Host and Origin that browsers send with every request.

    `hosts` are the names of this server, None for any; addresses are always let in,
    because no name leads to them. Pages of a host in `trusted` may call it too.
    """

    hosts: frozenset[str] | None
    trusted: frozenset[str] = frozenset()

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        if host and not self._is_ours(host):
            raise APIError(
                403,
                f"The server is not called {host!r}. Whoever serves can allow a name: "
                "--allowed-host NAME",
                code="host_not_allowed",
            )
        if not self._may_call(request):
            raise APIError(
                403, "Pages of other sites may not use this server.", code="origin_not_allowed"
            )
        asks = "Access-Control-Request-Method" in request.headers
        if request.method == "OPTIONS" and "Origin" in request.headers and asks:
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            allowed = {
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": wanted or "authorization, content-type",
                "Access-Control-Max-Age": "600",
            }
            return web.Response(status=204, headers=allowed)
        return await handler(request)

    async def tell(self, request: web.Request, response: web.StreamResponse) -> None:
        """Allow the page that asked to read the answer."""
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin is not None and self._may_call(request):
            response.headers["Access-Control-Allow-Origin"] = origin

    def _is_ours(self, host: str) -> bool:
        name = _name(f"//{host}")
        return name is not None and (self.hosts is None or name in self.hosts or _is_address(name))

    def _may_call(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            fetched = request.headers.get("Sec-Fetch-Site") == "cross-site"
            return not fetched or request.headers.get("Sec-Fetch-Mode") == "navigate"
        own = f"http://{request.headers.get('Host', '')}"
        return origin.lower() == own.lower() or "*" in self.trusted or _name(origin) in self.trusted


def _name(url: str) -> str | None:
    """The host in a URL, None if it has none that can be read."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_key(api_key: str | None) -> Any:
    """Asks for the key on every route but /health."""
    wanted = f"Bearer {api_key}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is not None and request.path != "/health":
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, wanted):
                raise APIError(401, "Wrong or missing API key.", code="invalid_api_key")
        return await handler(request)

    return check


async def _send(response: web.StreamResponse, value: Mapping[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")


def _error(refused: APIError, headers: Mapping[str, str] | None = None) -> web.Response:
    kept = {name: held for name, held in (headers or {}).items() if name == "Allow"}
    if refused.retry_after is not None:
        kept["Retry-After"] = str(refused.retry_after)
    return web.json_response(refused.to_json(), status=refused.status, headers=kept)
