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
from typing import Any

import httpx

from nanodistill.errors import NanoDistillError
from nanodistill.evaluation.worker import GeneratedAnswer, TaskPrompt

KEY_VARIABLE = "NANODISTILL_ENDPOINT_KEY"
# Seconds. A long answer of a model on a CPU takes minutes; a server that is up accepts a
# connection at once, unless it is loading a model.
TIMEOUT = httpx.Timeout(300, connect=10)


class EndpointError(NanoDistillError):
    """An endpoint failed, or its answer is not in OpenAI's format."""


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
        EndpointError: `model` is None, and the endpoint fails or does not serve exactly one.
    """
    if model is not None:
        return Endpoint(url.rstrip("/"), model)
    with _client(url) as client:
        served = [each["id"] for each in _items(client.get("models"), "data")]
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
            response = client.post("chat/completions", json=body)
            (choice, *_) = _items(response, "choices")
            usage = response.json().get("usage") or {}
            return {
                "text": choice["message"]["content"] or "",
                "finish_reason": "length" if choice["finish_reason"] == "length" else "stop",
                "prompt_tokens": usage.get("prompt_tokens", 0),
                "completion_tokens": usage.get("completion_tokens", 0),
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


def _items(response: httpx.Response, field: str) -> list[dict[str, Any]]:
    response.raise_for_status()
    items: list[dict[str, Any]] = response.json()[field]
    return items


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client for `url`. Whatever goes wrong inside becomes an EndpointError."""
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base_url = f"{url.rstrip('/')}/"
    try:
        with httpx.Client(base_url=base_url, headers=headers, timeout=TIMEOUT) as client:
            yield client
    except httpx.HTTPStatusError as error:
        response = error.response
        raise EndpointError(
            f"{url} answered with status {response.status_code}: {response.text[:200].strip()}",
            next_step="Answers so far are kept; rerun the command to resume. "
            f"{KEY_VARIABLE} sets the key.",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EndpointError(
            f"{url} can't be reached: {error}.",
            next_step="Start the server, or correct the address, which usually ends in /v1.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EndpointError(
            f"{url} does not answer in OpenAI's format: {type(error).__name__}: {error}."
        ) from error
