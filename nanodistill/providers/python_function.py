"""A teacher from Python: any function, or a list of answers.

    ScriptedProvider(lambda text: text.upper())
    ScriptedProvider(["first answer", RequestRejectedError("refusal", "no"), {"label": "a"}])
    teacher = "python:mine:answer"                    # in a run file; or python:mine.py:answer

A function is handed what its parameters are named after: `text` (the last user message),
`messages` (a list of role/content), `schema` (the wanted JSON schema, or None), `request` (the
whole `Request`). A single parameter of another name gets the text. It may be async; a plain one
runs in a worker thread, several at a time.

An answer is a text, a JSON value (a dict, a list or a pydantic model), or a `Completion` with
tokens and reasoning of its own. To fail, raise (or put into the list) a `TransientError`,
`RequestRejectedError` or `FatalProviderError`. Network and timeout errors of the usual libraries
are transient by themselves; any other exception counts as a mistake in the function and stops the
run.

With a function that answers the same request the same way a run gives the same dataset whatever
its concurrency. A list is served in order of asking, which depends on it.
"""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any

import anyio
from anyio import to_thread
from pydantic import BaseModel

from nanodistill.errors import CallError, FatalProviderError
from nanodistill.providers.base import Reply
from nanodistill.providers.error_classifier import ErrorClassifier
from nanodistill.secrets import Redactor
from nanodistill.types import Completion, Request, Usage

POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
GIVEN: dict[str, Callable[[Request], Any]] = {
    "text": lambda request: last_user_text(request),
    "messages": lambda request: [dict(message) for message in request.messages],
    "schema": lambda request: request.schema,
    "request": lambda request: request,
}


class ScriptedProvider:
    """Answers from a callable or a list. See the module's text for what they get and may give.

    Args:
        endpoint: goes into request keys; name it after what decides the answers.
        timeout: seconds for one call; None waits for ever.
    """

    def __init__(
        self,
        teacher: Callable[..., Any] | Iterable[Any],
        *,
        endpoint: str = "python",
        timeout: float | None = None,
    ) -> None:
        self._answer = from_callable(teacher) if callable(teacher) else from_sequence(iter(teacher))
        self._endpoint = endpoint
        self._timeout = timeout
        self._faults = ErrorClassifier(Redactor.of({}))

    @property
    def endpoint(self) -> str:
        return self._endpoint

    async def complete(self, request: Request) -> Reply:
        started = time.perf_counter()
        with self._faults.translate_errors(), anyio.fail_after(self._timeout):
            try:
                given = await self._answer(request)
            except Exception as error:
                if self._faults.of_exception(error) is not None:
                    raise
                raise function_error(error) from error
        if isinstance(given, CallError):
            raise given
        if isinstance(given, Completion) and isinstance(given.text, str):
            return Reply(given)
        text = as_text(given)
        if not text.strip():
            raise self._faults.make("empty", "")
        return Reply(Completion(text, "stop", Usage(), latency=time.perf_counter() - started))

    async def aclose(self) -> None:
        """Nothing to close."""


def from_callable(function: Callable[..., Any]) -> Callable[[Request], Awaitable[Any]]:
    """A function that calls `function` with the parts of a request that it asks for."""
    names = wanted_by(function)
    is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))

    async def answer(request: Request) -> Any:
        if names:
            call = partial(function, **{name: GIVEN[name](request) for name in names})
        else:
            call = partial(function, last_user_text(request))
        if not is_async:
            return await to_thread.run_sync(_contained, call, abandon_on_cancel=True)
        try:
            return await call()
        except SystemExit as leaving:
            raise LeftEarly("SystemExit") from leaving

    return answer


class LeftEarly(Exception):
    """A function tried to end the process: sys.exit in it, or what Ctrl-C raises."""


def _contained(call: Callable[[], Any]) -> Any:
    """`call()` in a worker thread, where these would end no process and leave us waiting."""
    try:
        return call()
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as leaving:
        raise LeftEarly(type(leaving).__name__) from leaving


def wanted_by(function: Callable[..., Any]) -> tuple[str, ...]:
    """The parts of a request that a function names; none if it takes one text."""
    parameters = inspect.signature(function).parameters.values()
    named = tuple(
        each.name for each in parameters if each.name in GIVEN and each.kind != POSITIONAL_ONLY
    )
    others = [
        each.name
        for each in parameters
        if each.name not in named
        and each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if named and not others:
        return named
    if len(others) == 1 and not named:
        return ()
    raise TypeError(
        f"a teacher function takes one text, or any of {', '.join(GIVEN)}; "
        f"this one takes {', '.join([*named, *others]) or 'nothing'}"
    )


def from_sequence(answers: Iterator[Any]) -> Callable[[Request], Awaitable[Any]]:
    """A function that gives the next of some answers each time."""

    async def answer(request: Request) -> Any:  # noqa: ARG001 - a list does not listen
        try:
            given = next(answers)
        except StopIteration:
            raise FatalProviderError(
                "exhausted", "the scripted teacher has no more answers"
            ) from None
        if isinstance(given, BaseException):
            raise given
        return given

    return answer


def function_error(error: Exception) -> FatalProviderError:
    """What stops the run when a teacher function raises what no table knows."""
    raised = error.__cause__ if isinstance(error, LeftEarly) and error.__cause__ else error
    frame = traceback.extract_tb(raised.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno}"
    return FatalProviderError(
        "function", f"the teacher function raised {type(raised).__name__} at {place}: {raised}"
    )


def last_user_text(request: Request) -> str:
    texts = [message["content"] for message in request.messages if message["role"] == "user"]
    return texts[-1] if texts else request.messages[-1]["content"]


def as_text(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, BaseModel):
        return given.model_dump_json()
    return "" if given is None else json.dumps(given, ensure_ascii=False)
