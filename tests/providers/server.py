"""A teacher on loopback that answers, limits, fails, cuts, hangs and lies over real HTTP.

It speaks OpenAI's chat format under `url` (`POST {url}/chat/completions`) and Anthropic's
(`POST {url}/messages`; LiteLLM wants `server.root` as api_base there), with JSON schemas, tools
and plain text, and answers the same request the same way (see `answers.py`).

In a test, through the fixture of tests/conftest.py:

    def test_waits(teacher_server: TeacherServer) -> None:
        teacher_server.next(status(429, headers={"Retry-After": "2"}), hang())
        ...  # teacher = "openai/any", litellm_kwargs = {"api_base": teacher_server.url}
        assert len(teacher_server.calls) == 3

`next(*acts)` says what happens to the next calls, in order of arrival; later ones are answered
well. The other knobs are the fields of `Behaviour`, which `teacher_server.set(latency=0.1,
rate=10, …)` changes at any time. `answer` may be a function of the call that returns the text.
`calls` is what arrived, `counts` how often each key arrived (a hash of the body: what a run
asked twice has 2), `peak` the most calls at once, `refused` the calls over the rate.

In another process, for kill tests and benchmarks:

    with ServerProcess(latency=0.1, record="counts") as server:   # .url, .root, .set(), .state()

or `python tests/providers/server.py --port 0 --set latency=0.1`, which prints its url as the first
line. `POST {root}/_set` takes a JSON object of `Behaviour` fields and `next`, a list of acts as
objects ({"act": "status", "status": 500}); `GET {root}/_state` tells counts, calls and peak.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

from aiohttp import web
from multidict import CIMultiDict

sys.path[:0] = [] if __package__ else [str(Path(__file__).parents[1])]

from providers.answers import dice_for, instance_of, schema_in, words  # noqa: E402

Hint = Literal["seconds", "date", "milliseconds", "openai", "openai-seconds", "anthropic", "none"]
Support = Literal["honour", "refuse", "ignore"]


@dataclass(frozen=True)
class Act:
    """What happens to one call instead of a good answer. Made by the functions below."""

    name: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Act:
        details = dict(described)
        return cls(details.pop("act"), details)


def answered(text: str | None = None, finish_reason: str = "stop", **message: Any) -> Act:
    """A proper answer with this text; further fields of the message as given."""
    return Act("answered", {"text": text, "finish_reason": finish_reason, "message": message})


def truncated(text: str = "and so it went on and") -> Act:
    """An answer that stopped at the token limit."""
    return answered(text, finish_reason="length")


def status(
    code: int,
    message: str = "no",
    *,
    type: str = "error",
    error_code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Act:
    """An error in the format of the API that was called."""
    error = {"message": message, "type": type, "code": error_code, "param": param}
    return Act("status", {"status": code, "error": error, "headers": dict(headers or {})})


def raw(
    body: str,
    code: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Act:
    """Any bytes at all: HTML from a proxy, an error inside a 200, no JSON, nothing."""
    details = {"body": body, "status": code, "type": content_type, "headers": dict(headers or {})}
    return Act("raw", details)


def html(code: int = 502) -> Act:
    """The page that a proxy puts in the way."""
    page = "<html><head><title>502 Bad Gateway</title></head>" + "<p>nginx</p>" * 500 + "</html>"
    return raw(page, code, "text/html")


def error_inside_200(message: str = "upstream had an error", code: int = 502) -> Act:
    """What some routers do."""
    return raw(json.dumps({"error": {"message": message, "code": code}}))


def echo_key(code: int = 401) -> Act:
    """An error that repeats the caller's key."""
    return Act("echo_key", {"status": code})


def cut() -> Act:
    """Half of the body, then a closed connection."""
    return Act("cut")


def hang() -> Act:
    """No answer until the server ends or the caller leaves."""
    return Act("hang")


def drop() -> Act:
    """The connection closed without a word."""
    return Act("drop")


def zipped() -> Act:
    """A good answer, compressed with gzip."""
    return Act("zipped")


def bad_zip() -> Act:
    """A body that claims to be gzip and is not."""
    return raw("not gzip", headers={"Content-Encoding": "gzip"})


@dataclass
class Behaviour:
    """How calls are met when no act is due.

    `rate` calls in each `window` seconds are taken, the rest get 429 with a `hint` of when to
    come back (`refusal` the status to use). `always` is an act for every call, taken when `next`
    is empty. `response_format` and `tools`: whether such requests are honoured, refused with a
    400, or ignored (answered in prose). `fail_every` makes each n-th call a 500. `items` is the
    length of lists that a schema leaves open. `mutate` turns a good body into what goes over the
    wire instead. `record`: keep whole calls, or counts alone.
    `picky` says what happens to a call by what it asks; None: nothing out of the ordinary.
    """

    latency: float = 0.0
    rate: int | None = None
    window: float = 1.0
    hint: Hint = "seconds"
    refusal: int = 429
    always: Act | None = None
    response_format: Support = "honour"
    tools: Support = "honour"
    fail_every: int | None = None
    items: int = 5
    usage: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    record: Literal["calls", "counts", "nothing"] = "calls"
    answer: Callable[[Call], str] | None = None
    picky: Callable[[Call], Act | None] | None = None
    mutate: Callable[[dict[str, Any], Call], str] | None = None


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    at: float

    @property
    def is_anthropic(self) -> bool:
        return self.path.endswith("/messages")

    @property
    def user(self) -> str:
        """The last user message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(p["text"] for p in content)

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def tool(self) -> Mapping[str, Any] | None:
        """The first tool offered, with its `name` and `schema`."""
        for tool in self.body.get("tools") or []:
            function = tool.get("function", tool)
            schema = function.get("parameters") or function.get("input_schema")
            return {"name": function["name"], "schema": schema}
        return None

    @property
    def wants_format(self) -> bool:
        return bool({"response_format", "output_format", "output_config"} & set(self.body))

    @property
    def format_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema asked for by response_format or Anthropic's output format."""
        wanted = self.body.get("response_format") or self.body.get("output_format")
        wanted = wanted or (self.body.get("output_config") or {}).get("format") or {}
        found: Mapping[str, Any] | None = (wanted.get("json_schema") or wanted).get("schema")
        return found


class TeacherServer:
    """The server, in a thread of this process. Use it as a context manager."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, **behaviour: Any) -> None:
        self.behaviour = Behaviour(**behaviour)
        self._tls = tls
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.total = 0
        self.refused = 0
        self.in_flight = 0
        self.peak = 0
        self.root = ""
        self._acts: deque[Act] = deque()
        self._taken: deque[float] = deque()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients: ends in /v1."""
        return f"{self.root}/v1"

    def next(self, *acts: Act) -> None:
        """What happens to the next calls, one act each."""
        self._acts.extend(acts)

    def set(self, **behaviour: Any) -> None:
        for name, value in behaviour.items():
            if name not in Behaviour.__dataclass_fields__:
                raise AttributeError(f"Behaviour has no field {name}")
            setattr(self.behaviour, name, value)

    def state(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "refused": self.refused,
            "in_flight": self.in_flight,
            "peak": self.peak,
            "counts": dict(self.counts),
        }

    def forget(self) -> None:
        """Empty the records, not the behaviour."""
        self.calls.clear()
        self.counts.clear()
        self.total = self.refused = self.peak = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.serve(port=0))
        self._loop.close()

    async def serve(self, port: int, *, announce: bool = False) -> None:
        """Listen on loopback until asked to leave."""
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._chat)
        app.router.add_post("/_set", self._set)
        app.router.add_get("/_state", self._tell)
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096, ssl_context=self._tls)
        await site.start()
        scheme = "https" if self._tls else "http"
        self.root = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        if announce:
            sys.stdout.write(self.url + "\n")
            sys.stdout.flush()
        await self._leave.wait()
        await runner.cleanup()

    async def _set(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.next(*(Act.of(act) for act in wanted.pop("next", [])))
        if always := wanted.pop("always", None):
            wanted["always"] = Act.of(always)
        self.set(**wanted)
        return web.json_response(self.state())

    async def _tell(self, request: web.Request) -> web.Response:
        return web.json_response(self.state())

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        call = Call(request.path, body, CIMultiDict(request.headers), time.monotonic())
        self._note(call)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            return await self._meet(request, call)
        finally:
            self.in_flight -= 1

    def _note(self, call: Call) -> None:
        self.total += 1
        if self.behaviour.record != "nothing":
            self.counts[call.key] += 1
        if self.behaviour.record == "calls":
            self.calls.append(call)

    async def _meet(self, request: web.Request, call: Call) -> web.StreamResponse:
        now = self.behaviour
        if (wait := self._over_limit(call.at)) is not None:
            self.refused += 1
            return refusal(call, now.refusal, wait, now.hint)
        if self._acts:
            act = self._acts.popleft()
        elif now.picky and (picked := now.picky(call)) is not None:
            act = picked
        elif now.always:
            act = now.always
        elif now.fail_every and self.total % now.fail_every == 0:
            act = status(500, "The server had an error")
        else:
            act = self._good(call)
        if now.latency:
            await asyncio.sleep(now.latency)
        return await self._perform(act, request, call)

    def _over_limit(self, at: float) -> float | None:
        """Seconds until the window has room, or None where it has."""
        if self.behaviour.rate is None:
            return None
        while self._taken and self._taken[0] <= at - self.behaviour.window:
            self._taken.popleft()
        if len(self._taken) >= self.behaviour.rate:
            return self._taken[0] + self.behaviour.window - at
        self._taken.append(at)
        return None

    def _good(self, call: Call) -> Act:
        now = self.behaviour
        if call.wants_format and now.response_format == "refuse":
            why = "'response_format' of type 'json_schema' is not supported with this model."
            return status(400, why, type="invalid_request_error", param="response_format")
        if call.tool and now.tools == "refuse":
            why = "This model does not support tools"
            return status(400, why, type="invalid_request_error", param="tools")
        dice = dice_for(call.body)
        if now.answer:
            text = now.answer(call)
        elif call.tool and now.tools == "honour":
            text = json.dumps(instance_of(call.tool["schema"], dice, items=now.items))
        elif call.format_schema and now.response_format == "honour":
            text = json.dumps(instance_of(call.format_schema, dice, items=now.items))
        elif (call.tool or call.wants_format) and not schema_in(call.body):
            text = "I would rather talk: " + words(dice, 12)
        elif schema := schema_in(call.body):
            text = json.dumps(instance_of(schema, dice, items=now.items))
        else:
            text = words(dice, 12)
        return answered(text)

    async def _perform(self, act: Act, request: web.Request, call: Call) -> web.StreamResponse:
        details = act.details
        match act.name:
            case "answered":
                return self._answer(call, details)
            case "zipped":
                response = self._answer(call, self._good(call).details)
                response.enable_compression(web.ContentCoding.gzip)
                return response
            case "status":
                return failure(call, details["status"], details["error"], details["headers"])
            case "echo_key":
                key = call.headers.get("Authorization") or call.headers.get("x-api-key")
                error = {"message": f"Incorrect API key provided: {key}", "type": "auth"}
                return failure(call, details["status"], error, {})
            case "raw":
                response = web.Response(body=details["body"].encode(), status=details["status"])
                response.content_type = details["type"]
                response.headers.update(details["headers"])
                return response
            case "cut":
                await self._cut(request, self._answer(call, self._good(call).details))
            case "hang":
                await self._leave.wait()
            case "drop":
                pass
            case _:
                raise LookupError(f"no act {act.name!r}")
        close(request)
        return web.Response()

    def _answer(self, call: Call, details: Mapping[str, Any]) -> web.Response:
        text, now = details["text"], self.behaviour
        if text is None:
            text = self._good(call).details["text"]
        prompt = sum(len(str(m["content"]).split()) for m in call.body["messages"])
        tokens = (prompt, len(text.split()))
        tool = call.tool if now.tools == "honour" and details["finish_reason"] == "stop" else None
        make = anthropic_answer if call.is_anthropic else openai_answer
        body = make(call, text, details["finish_reason"], tool, tokens)
        if not call.is_anthropic:
            body["choices"][0]["message"] |= details.get("message", {})
        if not now.usage:
            del body["usage"]
        if now.mutate is not None:
            wire = now.mutate(body, call).encode(errors="surrogatepass")
            return web.Response(body=wire, content_type="application/json", headers=now.headers)
        return web.json_response(body, headers=now.headers)

    async def _cut(self, request: web.Request, whole: web.Response) -> None:
        body = whole.body
        assert isinstance(body, bytes)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])


def openai_answer(
    call: Call,
    text: str,
    finish_reason: str,
    tool: Mapping[str, Any] | None,
    tokens: tuple[int, int],
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool:
        function = {"name": tool["name"], "arguments": text}
        used = [{"id": "call_1", "type": "function", "function": function}]
        message = {"role": "assistant", "content": None, "tool_calls": used}
    return {
        "id": f"chatcmpl-{call.key}",
        "object": "chat.completion",
        "created": 1700000000,
        "model": call.body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
        },
    }


ANTHROPIC_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


def anthropic_answer(
    call: Call,
    text: str,
    finish_reason: str,
    tool: Mapping[str, Any] | None,
    tokens: tuple[int, int],
) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": text}
    if tool:
        used = {"type": "tool_use", "id": "toolu_1", "name": tool["name"]}
        block = used | {"input": json.loads(text)}
    return {
        "id": f"msg_{call.key}",
        "type": "message",
        "role": "assistant",
        "model": call.body["model"],
        "content": [block],
        "stop_reason": "tool_use" if tool else ANTHROPIC_REASONS[finish_reason],
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }


def failure(
    call: Call, code: int, error: Mapping[str, Any], headers: Mapping[str, str]
) -> web.Response:
    body: dict[str, Any] = {"error": dict(error)}
    if call.is_anthropic:
        named = {"type": error["type"], "message": error["message"]}
        body = {"type": "error", "error": named}
    return web.json_response(body, status=code, headers=dict(headers))


def refusal(call: Call, code: int, wait: float, hint: Hint) -> web.Response:
    """Too fast: come back after `wait` seconds, said in one of the ways that providers use."""
    error = {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit"}
    return failure(call, code, error, hint_headers(wait, hint))


def hint_headers(wait: float, hint: Hint) -> dict[str, str]:
    wait = max(wait, 0.001)
    match hint:
        case "seconds":
            return {"Retry-After": str(max(1, round(wait + 0.499)))}
        case "date":
            return {"Retry-After": formatdate(time.time() + wait + 1, usegmt=True)}
        case "milliseconds":
            return {"retry-after-ms": str(round(wait * 1000))}
        case "openai":
            minutes, seconds = divmod(wait, 60)
            return {
                "x-ratelimit-reset-requests": f"{minutes:.0f}m{seconds:.3f}s",
                "x-ratelimit-remaining-requests": "0",
            }
        case "openai-seconds":
            return {
                "x-ratelimit-reset-requests": f"{wait:.3f}",
                "x-ratelimit-remaining-requests": "0",
            }
        case "anthropic":
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + wait + 1))
            return {
                "anthropic-ratelimit-requests-reset": at,
                "anthropic-ratelimit-requests-remaining": "0",
            }
        case "none":
            return {}


def close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


class ServerProcess:
    """The same server as a child process, so that it takes no time of ours."""

    def __init__(self, **behaviour: Any) -> None:
        self._behaviour = behaviour
        self.url = ""

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, "--port", "0"]
        for name, value in self._behaviour.items():
            command += ["--set", f"{name}={json.dumps(value)}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def set(self, **behaviour: Any) -> None:
        """Change fields of `Behaviour`; `next` is a list of acts as objects."""
        body = json.dumps(behaviour).encode()
        with urlopen(UrlRequest(f"{self.root}/_set", body)) as reply:
            reply.read()

    def state(self) -> dict[str, Any]:
        with urlopen(f"{self.root}/_state") as reply:
            told: dict[str, Any] = json.loads(reply.read())
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description="A teacher on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="a field of Behaviour"
    )
    arguments = parser.parse_args()
    chosen = dict(item.split("=", 1) for item in arguments.set)
    server = TeacherServer(**{name: json.loads(value) for name, value in chosen.items()})
    asyncio.run(server.serve(arguments.port, announce=True))


if __name__ == "__main__":
    main()
