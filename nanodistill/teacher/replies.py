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
from nanodistill.teacher.evidence import Evidence, as_text
from nanodistill.teacher.faults import Faults
from nanodistill.teacher.prices import Price

THOUGHTS = re.compile(
    r"<(?:think|thinking|budget:thinking)>(.*?)</(?:think|thinking|budget:thinking)>(.*)",
    re.DOTALL,
)
SURROGATES = re.compile("[\ud800-\udfff]")
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
        try:
            return self._read(body, headers, latency)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError):
            told = as_text(body) if isinstance(body, Mapping) else f"a {type(body).__name__}"
            raise self.faults.make("bad_body", told) from None

    def _read(
        self, body: Mapping[str, Any], headers: Mapping[str, str], latency: float
    ) -> Completion:
        choice = self._choice(body, headers)
        message = choice["message"]
        usage = usage_of(body.get("usage"))
        finish = str(choice.get("finish_reason") or "stop").lower()
        text, reasoning = text_of(message), reasoning_of(message)
        if reasoning is None and (found := THOUGHTS.match(text)):
            reasoning, text = found[1], found[2]
        self._refused(message, finish, text, usage)
        model = body.get("model")
        return Completion(
            text=text,
            finish_reason=FINISHES.get(finish, "stop"),
            usage=usage or Usage(),
            reasoning=reasoning or None,
            model=model if isinstance(model, str) else None,
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
        return sound(as_text(call["function"]["arguments"]))
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    return sound(content)


def sound(text: str) -> str:
    """Text that UTF-8 can hold: half of a surrogate pair, which JSON allows, is no character."""
    return SURROGATES.sub("\ufffd", text)


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """The model's own reasoning, where it came apart from the answer."""
    for name in ("reasoning_content", "reasoning"):
        told = message.get(name) or specific(message).get(name)
        if isinstance(told, str) and told:
            return sound(told)
    content = message.get("content")
    if isinstance(content, list):
        blocks = [part["thinking"] for part in content if part.get("type") == "thinking"]
        return sound("".join(map(thought_in, blocks))) or None
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
    if not isinstance(told, Mapping):
        return None
    prompt, completion = number(told, "prompt_tokens"), number(told, "completion_tokens")
    if not prompt and not completion:
        return None
    into = told.get("prompt_tokens_details") or {}
    out = told.get("completion_tokens_details") or {}
    cached = number(into, "cached_tokens") or number(told, "prompt_cache_hit_tokens")
    reasoning = number(out, "reasoning_tokens")
    return Usage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def number(told: Mapping[str, Any], name: str) -> int:
    return max(0, int(told.get(name) or 0))
