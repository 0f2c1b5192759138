"""A model behind an OpenAI-compatible endpoint: Ollama, llama.cpp, vLLM, or our own server.

It is sent the same messages as every other contender, with temperature 0, and
is known by its address and name: what was answered under these is kept, as
nobody can tell whether another model has moved in (delete answers.jsonl if one
has). Calls are not tried again. An answer that came is kept, so that running
the evaluation again goes on with the rest.

A key is taken from the environment variable `NANODISTILL_ENDPOINT_KEY` and from
no other, lest a provider's key be sent to a stranger.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError, model_validator

from nanodistill import jsontext
from nanodistill.config.access import address_problem, key_problem, likely_base
from nanodistill.errors import InputError, RunIncompleteError
from nanodistill.evaluation.worker import GeneratedAnswer, TaskPrompt
from nanodistill.secrets import Redactor

KEY = "NANODISTILL_ENDPOINT_KEY"
PATIENCE = httpx.Timeout(300, connect=10)


LONGEST_BODY = 16 * 2**20
"""Some hundred times the longest answer that models give; a file server may send anything."""
QUOTED = 200

T = TypeVar("T", bound=BaseModel)


class EndpointFailed(RunIncompleteError):
    """An endpoint did not answer, or not in OpenAI's form. Answers that came are kept."""


class Part(BaseModel):
    """A part of a content; what is no text has none to judge."""

    text: str = ""


class Message(BaseModel):
    """`content` is null where a model used up its tokens before it came to an answer."""

    content: str | list[Part] | None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.message.content is None and self.finish_reason != "length":
            raise ValueError("the content is null")
        return self


class TokenCounts(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatAnswer(BaseModel):
    """What of a chat completion is read here."""

    choices: list[Choice] = Field(min_length=1)
    usage: TokenCounts | None = None


class NamedModel(BaseModel):
    id: str


class ModelList(BaseModel):
    data: list[NamedModel]


@dataclass(frozen=True)
class Endpoint:
    """`url` as OpenAI clients take it (it ends in /v1, usually), and a model that it serves."""

    url: str
    name: str

    @property
    def identity(self) -> str:
        return f"endpoint:{self.url}#{self.name}"


def find_endpoint(url: str, model: str | None) -> Endpoint:
    """The endpoint's model of that name; where none is named, the only one it has.

    Raises:
        InputError: `url`, or the key that goes there, can't be one.
        EndpointFailed: nobody answers there, or there is not exactly one model.
    """
    if wrong := address_problem(url):
        raise InputError(f"--endpoint {wrong}.")
    if wrong := key_problem(_key(), placeholders=False):
        raise InputError(f"The environment variable {KEY} {wrong}.")
    if model is not None:
        return Endpoint(url.rstrip("/"), model)
    with _client(url) as client:
        served = [model.id for model in _fetch(client, "GET", "models", ModelList).data]
    if len(served) != 1:
        raise EndpointFailed(
            f"{url} serves {len(served)} models: {', '.join(served) or 'none'}.",
            next_step="Name the one to evaluate with --model.",
        )
    return Endpoint(url.rstrip("/"), served[0])


def ask_endpoint(
    endpoint: Endpoint, prompts: Sequence[TaskPrompt], max_new_tokens: int, at_once: int
) -> Iterator[GeneratedAnswer]:
    """The answers as they come.

    Raises:
        EndpointFailed: a call failed; those that wait are not sent.
    """
    before = time.perf_counter()
    with _client(endpoint.url) as client, ThreadPoolExecutor(at_once) as pool:

        def ask(prompt: TaskPrompt) -> dict[str, Any]:
            body = {
                "model": endpoint.name,
                "messages": prompt.messages,
                "temperature": 0,
                "max_tokens": max_new_tokens,
            }
            return _answer(_fetch(client, "POST", "chat/completions", ChatAnswer, json=body))

        waiting = {pool.submit(ask, prompt): prompt for prompt in prompts}
        try:
            for done in as_completed(waiting):
                answer = done.result()
                now = time.perf_counter()
                yield GeneratedAnswer(
                    key=waiting[done].key, seconds=now - before, peak_memory=0, **answer
                )
                before = now
        finally:
            pool.shutdown(cancel_futures=True)


def _answer(given: ChatAnswer) -> dict[str, Any]:
    choice, usage = given.choices[0], given.usage or TokenCounts()
    return {
        "text": choice.message.text,
        "finish_reason": "length" if choice.finish_reason == "length" else "stop",
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _fetch(client: httpx.Client, method: str, path: str, form: type[T], **request: Any) -> T:
    """What the endpoint says, as a `form`.

    Raises:
        httpx.HTTPError: it could not be asked, or said no.
        ValueError: what it said is too long, no JSON, or of another form.
    """
    with client.stream(method, path, **request) as response:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > LONGEST_BODY:
                raise ValueError(f"the answer is longer than {LONGEST_BODY / 2**20:.0f} MiB")
        if not response.is_success:
            raise httpx.HTTPStatusError(_quoted(body), request=response.request, response=response)
    try:
        return form.model_validate(jsontext.loads(body.decode()))
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}, in {_quoted(body)}") from wrong
    except ValueError as wrong:
        raise ValueError(f"no JSON, but {_quoted(body)}") from wrong


def _quoted(body: bytes | bytearray) -> str:
    """The begin of a body, on one line."""
    words = " ".join(body[:QUOTED].decode(errors="replace").split())
    return words if words else "nothing"


def _key() -> str:
    return os.environ.get(KEY, "").strip()


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client for `url`. What goes wrong in here becomes an error of ours."""
    key = _key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    redact = Redactor.of({"api_key": key})
    try:
        with httpx.Client(base_url=f"{url.rstrip('/')}/", headers=headers, timeout=PATIENCE) as own:
            yield own
    except httpx.HTTPStatusError as refused:
        code, said = refused.response.status_code, redact(str(refused))
        raise EndpointFailed(
            f"{url} answered with status {code}: {said}", next_step=_way_out(url, refused.response)
        ) from refused
    except (httpx.HTTPError, httpx.InvalidURL) as failed:
        raise EndpointFailed(
            f"{url} can't be reached: {redact(str(failed)) or type(failed).__name__}.",
            next_step=f"Start the server, or correct the address, {USUALLY}. {KEPT}",
        ) from failed
    except ValueError as strange:
        raise EndpointFailed(
            f"{url} does not answer in OpenAI's form: {redact(str(strange))}",
            next_step=f"Name the base of an OpenAI-compatible API, {USUALLY}. {KEPT}",
        ) from strange


USUALLY = "which usually ends in /v1"
KEPT = "Answers so far are kept: run the command again to resume."


def _way_out(url: str, response: httpx.Response) -> str:
    """What to do about a status that is no success."""
    if response.has_redirect_location:
        return f"It points to {response.headers['Location']}: name that server's base. {KEPT}"
    if response.status_code in (401, 403):
        return f"Set {KEY} to a key of this server. {KEPT}"
    if response.status_code == 404:
        likely = likely_base(url)
        where = f"such servers usually answer at {likely}" if likely else "and the model's name"
        return f"Check the address{'; ' if likely else ' '}{where}. {KEPT}"
    return KEPT
