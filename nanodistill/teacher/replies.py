"""A chat completion in OpenAI's format, read: text, reasoning, tokens, dollars; or a fault.

Both transports come here, LiteLLM's with what it made of other providers' formats, so that the
same answer gives the same completion. As in LiteLLM, a `<think>` or `<thinking>` block at the
very beginning of a text is the model's reasoning and not part of its answer.

A reply without usage counts no tokens, and has no known cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill.records import Completion, FinishReason, Usage
from nanodistill.teacher.faults import Evidence, Faults
from nanodistill.teacher.prices import Price

THOUGHTS = re.compile(
    r"<(?:think|thinking|budget:thinking)>(.*?)</(?:think|thinking|budget:thinking)>(.*)",
    re.DOTALL,
)
FINISHES: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
BROKEN_OFF: Mapping[str, str] = {
    "error": "server_error",
    "abort": "server_error",
    "insufficient_system_resource": "overloaded",
}


@dataclass(frozen=True)
class Reader:
    """Reads bodies for one model at one price."""

    faults: Faults
    price: Price | None

    def read(self, body: Any, headers: Mapping[str, str], latency: float) -> Completion:
        """
        Raises:
            Transient, RowFailed, RunStopped: the body holds no usable answer.
        """
        if not isinstance(body, Mapping):
            raise self.faults.make("bad_body", f"a JSON {type(body).__name__} in place of a reply")
        choice = self._choice(body, headers)
        message = choice["message"]
        usage = usage_of(body.get("usage"))
        finish = str(choice.get("finish_reason") or "stop").lower()
        text, reasoning = text_of(message), reasoning_of(message)
        if reasoning is None and (found := THOUGHTS.match(text)):
            reasoning, text = found[1], found[2]
        self._refused(message, finish, text, usage)
        return Completion(
            text=text,
            finish_reason=FINISHES.get(finish, "stop"),
            usage=usage or Usage(),
            reasoning=reasoning or None,
            model=body.get("model"),
            latency=latency,
            cost_usd=self.price.of(usage) if self.price and usage else None,
        )

    def _choice(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Mapping[str, Any]:
        """The first choice, with a message; or what the body says instead."""
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        error = (choice.get("error") if isinstance(choice, Mapping) else None) or body.get("error")
        if error:
            code = error.get("code") if isinstance(error, Mapping) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 200
            raise self.faults.of_http(Evidence.of_body(status, {"error": error}, headers))
        if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
            raise self.faults.make("bad_body", "no choices in the reply")
        return choice

    def _refused(
        self, message: Mapping[str, Any], finish: str, text: str, usage: Usage | None
    ) -> None:
        if finish == "content_filter":
            raise self.faults.make("content_filter", text, usage=usage)
        if finish in BROKEN_OFF:
            raise self.faults.make(BROKEN_OFF[finish], f"finish_reason {finish}", usage=usage)
        refusal = message.get("refusal") or specific(message).get("refusal")
        if finish == "refusal" or (refusal and not text):
            raise self.faults.make("refusal", str(refusal or text), usage=usage)
        if not text.strip() and finish not in ("length", "max_tokens", "model_length"):
            raise self.faults.make("empty", "", usage=usage)


def text_of(message: Mapping[str, Any]) -> str:
    """The answer: the arguments of the tool that it came through, or the content."""
    for call in message.get("tool_calls") or []:
        arguments = call["function"]["arguments"]
        return arguments if isinstance(arguments, str) else Evidence.of_body(0, arguments, {}).text
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """The model's own reasoning, where it came apart from the answer."""
    for name in ("reasoning_content", "reasoning"):
        told = message.get(name) or specific(message).get(name)
        if isinstance(told, str) and told:
            return told
    content = message.get("content")
    if isinstance(content, list):
        blocks = [part["thinking"] for part in content if part.get("type") == "thinking"]
        return "".join(map(thought_in, blocks)) or None
    return None


def thought_in(block: Any) -> str:
    """Mistral's thinking is a list of texts, others' a text."""
    if isinstance(block, list):
        return "".join(part.get("text") or "" for part in block)
    return str(block)


def specific(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where LiteLLM keeps the fields of a message that OpenAI's format does not have."""
    return message.get("provider_specific_fields") or {}


def usage_of(told: Any) -> Usage | None:
    """Tokens as billed; None where the reply does not say."""
    if not isinstance(told, Mapping) or not isinstance(told.get("prompt_tokens"), int):
        return None
    prompt, completion = told["prompt_tokens"], told.get("completion_tokens") or 0
    if not prompt and not completion:
        return None
    into = told.get("prompt_tokens_details") or {}
    out = told.get("completion_tokens_details") or {}
    cached = into.get("cached_tokens") or told.get("prompt_cache_hit_tokens") or 0
    return Usage(prompt, completion, min(cached, prompt), out.get("reasoning_tokens") or 0)
