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
from typing import Any

import httpx

from nanodistill.config.access import address_problem, key_problem
from nanodistill.errors import InputError, NanoDistillError
from nanodistill.evaluation.worker import GeneratedAnswer, TaskPrompt

KEY = "NANODISTILL_ENDPOINT_KEY"
PATIENCE = httpx.Timeout(300, connect=10)


class EndpointFailed(NanoDistillError):
    """An endpoint did not answer, or not in OpenAI's form."""


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
    if wrong := key_problem(os.environ.get(KEY, ""), placeholders=False):
        raise InputError(f"The environment variable {KEY} {wrong}.")
    if model is not None:
        return Endpoint(url.rstrip("/"), model)
    with _client(url) as client:
        served = [each["id"] for each in _fields(client.get("models"), "data")]
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
            return _answer(client.post("chat/completions", json=body))

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


def _answer(response: httpx.Response) -> dict[str, Any]:
    (choice, *_) = _fields(response, "choices")
    usage = response.json().get("usage") or {}
    return {
        "text": choice["message"]["content"] or "",
        "finish_reason": "length" if choice["finish_reason"] == "length" else "stop",
        "prompt_tokens": usage.get("prompt_tokens", 0),
        "completion_tokens": usage.get("completion_tokens", 0),
    }


def _fields(response: httpx.Response, field: str) -> list[dict[str, Any]]:
    response.raise_for_status()
    found: list[dict[str, Any]] = response.json()[field]
    return found


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    """A client for `url`. What goes wrong in here becomes an error of ours."""
    key = os.environ.get(KEY, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=f"{url.rstrip('/')}/", headers=headers, timeout=PATIENCE) as own:
            yield own
    except httpx.HTTPStatusError as refused:
        response = refused.response
        raise EndpointFailed(
            f"{url} answered with status {response.status_code}: {response.text[:200].strip()}",
            next_step="Answers so far are kept; run the command again to go on. "
            f"A key is taken from {KEY}.",
        ) from refused
    except (httpx.HTTPError, httpx.InvalidURL) as failed:
        raise EndpointFailed(
            f"{url} can't be reached: {failed}.",
            next_step="Start the server, or mend the address, which usually ends in /v1.",
        ) from failed
    except (ValueError, KeyError, TypeError) as strange:
        raise EndpointFailed(
            f"{url} does not answer in OpenAI's form: {type(strange).__name__}: {strange}."
        ) from strange
