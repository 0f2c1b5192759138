"""A model behind an OpenAI-compatible endpoint: Ollama, llama.cpp, vLLM, or `nanodistill serve`.

It gets the same messages as every other model, at temperature 0. Its answers
are cached under the address and the model's name, because a server does not say
whether its weights have changed: delete answers.jsonl after swapping a model.
Calls are not retried; answers so far are kept, so rerunning the evaluation
resumes with the rest.

The key comes from the environment variable `NANODISTILL_ENDPOINT_KEY` alone, so
that a provider's key never reaches another server.

Format: https://platform.openai.com/docs/api-reference/chat
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

KEY_VARIABLE = "NANODISTILL_ENDPOINT_KEY"
# Seconds. A long answer of a model on a CPU takes minutes; a server that is up accepts a
# connection at once, unless it is loading a model.
TIMEOUT = httpx.Timeout(300, connect=10)


# Bytes: some hundred times the longest answer of a model. A file server may send anything.
LONGEST_BODY = 16 * 2**20
QUOTED = 200  # bytes of a body that an error shows
RESUME = "Answers so far are kept; rerun the command to resume."
USUAL_ENDING = "which usually ends in /v1"

T = TypeVar("T", bound=BaseModel)


class EndpointError(RunIncompleteError):
    """An endpoint failed, or its answer is not in OpenAI's format. Answers so far are kept."""


class Part(BaseModel):
    """A part of a message. Images and the like have no text to score."""

    text: str = ""


class Message(BaseModel):
    """`content` is null if the model used up its tokens before it came to an answer."""

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
    def _check_content(self) -> Self:
        if self.message.content is None and self.finish_reason != "length":
            raise ValueError("the content is null")
        return self


class TokenCounts(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatCompletion(BaseModel):
    """The fields of a chat completion that are read."""

    choices: list[Choice] = Field(min_length=1)
    usage: TokenCounts | None = None


class ModelEntry(BaseModel):
    id: str


class ModelList(BaseModel):
    data: list[ModelEntry]


@dataclass(frozen=True)
class Endpoint:
    """A served model: `url` as OpenAI clients take it (usually ending in /v1), and its name."""

    url: str
    name: str

    @property
    def identity(self) -> str:
        return f"endpoint:{self.url}#{self.name}"


def find_endpoint(url: str, model: str | None) -> Endpoint:
    """The model named `model`, or the only one that the endpoint serves.

    Raises:
        InputError: `url`, or the key for it, can't be one.
        EndpointError: `model` is None, and the endpoint fails or does not serve exactly one.
    """
    if problem := address_problem(url):
        raise InputError(f"--endpoint {problem}.")
    if problem := key_problem(_key(), placeholders=False):
        raise InputError(f"The environment variable {KEY_VARIABLE} {problem}.")
    if model is not None:
        return Endpoint(url.rstrip("/"), model)
    with _client(url) as client:
        served = [entry.id for entry in _fetch(client, "GET", "models", ModelList).data]
    if len(served) != 1:
        raise EndpointError(
            f"{url} serves {len(served)} models: {', '.join(served) or 'none'}.",
            next_step="Name the one to evaluate with --model.",
        )
    return Endpoint(url.rstrip("/"), served[0])


def ask_endpoint(
    endpoint: Endpoint, prompts: Sequence[TaskPrompt], max_new_tokens: int, at_once: int
) -> Iterator[GeneratedAnswer]:
    """The answers as they arrive, `at_once` calls at a time.

    Raises:
        EndpointError: a call failed; waiting ones are not sent.
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
            completion = _fetch(client, "POST", "chat/completions", ChatCompletion, json=body)
            choice, usage = completion.choices[0], completion.usage or TokenCounts()
            return {
                "text": choice.message.text,
                "finish_reason": "length" if choice.finish_reason == "length" else "stop",
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
            }

        calls = {pool.submit(ask, prompt): prompt.key for prompt in prompts}
        try:
            for call in as_completed(calls):
                answer = call.result()
                now = time.perf_counter()
                yield GeneratedAnswer(
                    key=calls[call], seconds=now - before, peak_memory=0, **answer
                )
                before = now
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch(client: httpx.Client, method: str, path: str, schema: type[T], **request: Any) -> T:
    """The response, as `schema`.

    Raises:
        httpx.HTTPError: the request failed, or its status is no success.
        ValueError: the response is too long, not JSON, or does not fit `schema`.
    """
    with client.stream(method, path, **request) as response:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > LONGEST_BODY:
                raise ValueError(f"the answer is longer than {LONGEST_BODY / 2**20:.0f} MiB")
        if not response.is_success:
            raise httpx.HTTPStatusError(_excerpt(body), request=response.request, response=response)
    try:
        return schema.model_validate(jsontext.loads(body.decode()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}, in {_excerpt(body)}") from error
    except ValueError as error:
        raise ValueError(f"not JSON, but {_excerpt(body)}") from error


def _excerpt(body: bytes | bytearray) -> str:
    """The beginning of a body, on one line."""
    return " ".join(body[:QUOTED].decode(errors="replace").split()) or "nothing"


def _key() -> str:
    return os.environ.get(KEY_VARIABLE, "").strip()


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client for `url`. Whatever goes wrong inside becomes an EndpointError."""
    key = _key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    redact = Redactor.of({"api_key": key})
    base_url = f"{url.rstrip('/')}/"
    try:
        with httpx.Client(base_url=base_url, headers=headers, timeout=TIMEOUT) as client:
            yield client
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise EndpointError(
            f"{url} answered with status {status}: {redact(str(error))}",
            next_step=_next_step(url, error.response),
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EndpointError(
            f"{url} can't be reached: {redact(str(error)) or type(error).__name__}.",
            next_step=f"Start the server, or correct the address, {USUAL_ENDING}. {RESUME}",
        ) from error
    except ValueError as error:
        raise EndpointError(
            f"{url} does not answer in OpenAI's format: {redact(str(error))}",
            next_step=f"Give the base of an OpenAI-compatible API, {USUAL_ENDING}. {RESUME}",
        ) from error


def _next_step(url: str, response: httpx.Response) -> str:
    """What to do about a status that is no success."""
    if response.has_redirect_location:
        return f"It redirects to {response.headers['Location']}: give that address. {RESUME}"
    if response.status_code in (401, 403):
        return f"Set {KEY_VARIABLE} to a key of this server. {RESUME}"
    if response.status_code == 404:
        likely = likely_base(url)
        if likely:
            return f"Check the address; such servers usually answer at {likely}. {RESUME}"
        return f"Check the address and the model's name. {RESUME}"
    return RESUME
