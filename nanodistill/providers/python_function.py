"""A teacher from Python: any function, or a list of answers.

    ScriptedProvider(lambda text: text.upper())
    ScriptedProvider(["first answer", RequestRejectedError("refusal", "no"), {"label": "a"}])
    teacher = "python:mine:answer"                    # in a run file; or python:mine.py:answer

A function is handed what its parameters are named after: `text` (the last user message),
`messages` (a list of role/content), `schema` (the wanted JSON schema, or None), `request` (the
whole `Request`). A parameter of another name gets the text, and so does `*args`. It may be async;
a plain one runs in a worker thread, several at a time. A class is instantiated without arguments,
once, and its instance called.

An answer is a text, a JSON value (a dict, a list, a pydantic model, a dataclass, an enum, …), or a
`Completion` with tokens and reasoning of its own. To fail, raise (or put into the list) a
`TransientError`, `RequestRejectedError` or `FatalProviderError`. Network and timeout errors of the
usual libraries are transient by themselves; any other exception counts as a mistake in the
function and stops the run. An answer that is neither text nor JSON fails its row, which the next
run asks again.

With a function that answers the same request the same way a run gives the same dataset whatever
its concurrency. A list is served in order of asking, which depends on it.
"""

from __future__ import annotations

import asyncio
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
from pydantic_core import to_jsonable_python

from nanodistill.errors import CallError, FatalProviderError, RequestRejectedError
from nanodistill.jsontext import SupportsToList, plain_number
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

    Raises:
        TypeError: the callable can't be asked; see `signature_problem`.
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
        if isinstance(given, Completion):
            return Reply(checked_completion(given))
        text = as_text(given)
        if not text.strip():
            raise self._faults.make("empty", "")
        return Reply(Completion(text, "stop", Usage(), latency=time.perf_counter() - started))

    async def aclose(self) -> None:
        """Nothing to close."""


def from_callable(function: Callable[..., Any]) -> Callable[[Request], Awaitable[Any]]:
    """A function that calls `function` with the parts of a request that it asks for."""
    if wrong := signature_problem(function):
        raise TypeError(wrong)
    named, other = parameters_of(function)
    by_keyword = other is not None and other.kind == other.KEYWORD_ONLY
    is_async = is_any_of(function, inspect.iscoroutinefunction)

    async def answer(request: Request) -> Any:
        call = partial(function, **{name: GIVEN[name](request) for name in named})
        if other is not None:
            text = last_user_text(request)
            call = partial(call, **{other.name: text}) if by_keyword else partial(call, text)
        if is_async:
            return await _contained_here(call())
        (given,) = await to_thread.run_sync(_contained, call, abandon_on_cancel=True)
        return await _contained_here(given) if inspect.isawaitable(given) else given

    return answer


class LeftEarlyError(Exception):
    """A function raised what would end more than its call: sys.exit in it, a cancellation, …"""


def _contained(call: Callable[[], Any]) -> tuple[Any]:
    """`call()` in a worker thread, where what is no error would end no process, or be taken for
    the end of an iterator or of the task that waits here. In a tuple: trio takes no coroutine."""
    try:
        return (call(),)
    except BaseException as leaving:
        if isinstance(leaving, Exception) and not isinstance(leaving, StopIteration):
            raise
        raise LeftEarlyError(type(leaving).__name__) from leaving


async def _contained_here(answer: Awaitable[Any]) -> Any:
    """`await answer`; the same in our own task, which Ctrl-C and a cancellation do end."""
    try:
        return await answer
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as leaving:
        if _is_cancelled(leaving):
            raise
        raise LeftEarlyError(type(leaving).__name__) from leaving


def _is_cancelled(leaving: BaseException) -> bool:
    """Whether somebody cancelled this task; asyncio's error alone may be the function's own."""
    if not isinstance(leaving, anyio.get_cancelled_exc_class()):
        return False
    task = asyncio.current_task() if isinstance(leaving, asyncio.CancelledError) else None
    return task is None or task.cancelling() > 0


def signature_problem(function: Callable[..., Any]) -> str | None:
    """Why `function` can't be asked as a teacher, in words; None if it can."""
    if is_any_of(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        return "a teacher function returns its answer, and this one yields"
    named, other = parameters_of(function)
    required = [
        each
        for each in signature_of(function)
        if each.name not in named
        and each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if any(each.name == "self" and each.kind != POSITIONAL_ONLY for each in required[:1]):
        return "is a method of a class; name an instance's method, or the class"
    unmet = [each.name for each in required if each != other]
    if (named or other) and not unmet:
        return None
    return (
        f"a teacher function takes one text, or any of {', '.join(GIVEN)}; "
        f"this one takes {', '.join([*named, *(each.name for each in required)]) or 'nothing'}"
    )


def parameters_of(
    function: Callable[..., Any],
) -> tuple[tuple[str, ...], inspect.Parameter | None]:
    """The parts of a request that a function names, and its parameter for the bare text, if any."""
    parameters = signature_of(function)
    named = tuple(
        each.name for each in parameters if each.name in GIVEN and each.kind != POSITIONAL_ONLY
    )
    others = [each for each in parameters if each.name not in named]
    wanted = [
        each
        for each in others
        if each.kind == each.VAR_POSITIONAL
        or (each.default is each.empty and each.kind != each.VAR_KEYWORD)
    ]
    return named, wanted[0] if wanted and not {"text", "messages", "request"} & {*named} else None


def signature_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """A function's parameters; of one of C that tells none, one for the text."""
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        return [inspect.Parameter("text", POSITIONAL_ONLY)]


def is_any_of(function: Callable[..., Any], *kinds: Callable[[Any], bool]) -> bool:
    """Whether a function, or an object's `__call__`, is of one of some kinds."""
    return any(kind(each) for kind in kinds for each in (function, type(function).__call__))


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
    raised = error.__cause__ if isinstance(error, LeftEarlyError) and error.__cause__ else error
    frame = traceback.extract_tb(raised.__traceback__)[-1]
    told = f" {raised}" if str(raised) else ""
    return FatalProviderError(
        "function",
        f"the teacher function raised {type(raised).__name__} at {frame.filename}:{frame.lineno}"
        f"{told and ':'}{told}",
    )


def last_user_text(request: Request) -> str:
    texts = [message["content"] for message in request.messages if message["role"] == "user"]
    return texts[-1] if texts else request.messages[-1]["content"]


def checked_completion(given: Completion) -> Completion:
    """
    Raises:
        RequestRejectedError: a part of it is of another type than it says.
    """
    whole = isinstance(given.text, str) and isinstance(given.usage, Usage)
    if whole and isinstance(given.reasoning, str | None):
        return given
    raise RequestRejectedError(
        "function", "the teacher function returned a Completion whose parts are of other types"
    )


def as_text(given: Any) -> str:
    """An answer as text: JSON for what has parts, the value itself where that is a text.

    Raises:
        RequestRejectedError: it is neither.
    """
    if isinstance(given, str):
        return str.__str__(given)  # less what a subclass, an enum for instance, adds
    if isinstance(given, BaseModel):
        return given.model_dump_json()
    if given is None:
        return ""
    try:
        plain = given if isinstance(given, JSON) else jsonable(given)
        return (
            plain
            if isinstance(plain, str)
            else json.dumps(plain, ensure_ascii=False, default=jsonable)
        )
    except (TypeError, ValueError, RecursionError) as unfit:
        raise RequestRejectedError(
            "function",
            f"the teacher function returned a {type(given).__name__}, which is neither text nor "
            f"JSON ({unfit})",
        ) from unfit


JSON = (dict, list, tuple, bool, int, float)


def jsonable(value: Any) -> Any:
    """What JSON has no word for in one that it has. What yields is no value: it may never end."""
    if isinstance(value, Iterator):
        raise TypeError(f"a {type(value).__name__} is no JSON value")
    if isinstance(value, SupportsToList):
        return plain_number(value)
    return to_jsonable_python(value)
