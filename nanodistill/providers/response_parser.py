"""A chat completion in OpenAI's format, read: text, reasoning, tokens, dollars; or a fault.

Both transports come here, LiteLLM's with what it made of other providers' formats, so that the
same answer gives the same completion. As in LiteLLM, a `<think>` or `<thinking>` block at the
very beginning of a text is the model's reasoning and not part of its answer.

Whatever a body holds, reading it ends in a completion or in a `CallError`. What is beside the
answer never costs the answer: usage that makes no sense counts as none. A reply without usage
counts no tokens, and has no known cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill import jsontext
from nanodistill.jsontext import replace_surrogates
from nanodistill.providers.error_classifier import ErrorClassifier
from nanodistill.providers.exception_table import ErrorDetails, as_text
from nanodistill.providers.prices import Price
from nanodistill.types import Completion, FinishReason, Usage

THOUGHTS = re.compile(
    r"\s*<(?:think|thinking|budget:thinking)>(.*?)</(?:think|thinking|budget:thinking)>(.*)",
    re.DOTALL,
)
# Servers whose chat template opens the thoughts send what the model wrote: the end tag alone.
UNOPENED_THOUGHTS = re.compile(r"((?:(?!<think).)*?)</think>(.*)", re.DOTALL)
MOST_TOKENS = 10**9
"""Usage above this is nonsense. SQLite holds integers below 2^63, sums of rows included."""
FINISHES: Mapping[str, FinishReason] = {
    **dict.fromkeys(
        (
            "",
            "stop",
            "eos",
            "eos_token",
            "end_turn",
            "stop_sequence",
            "stop_token",
            "complete",
            "completed",
            "end",
            "finish",
            "finished",
            "done",
            "normal",
            "1",
        ),
        "stop",
    ),
    **dict.fromkeys(
        (
            "length",
            "max_tokens",
            "model_length",
            "max_length",
            "max_output_tokens",
            "truncated",
            "model_context_window_exceeded",
            "incomplete",
            "2",
        ),
        "length",
    ),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "safety",
            "recitation",
            "language",
            "blocklist",
            "prohibited_content",
            "spii",
            "sensitive",
            "image_safety",
            "guardrail_intervened",
            "moderation",
            "flagged",
            "toxic",
            "error_toxic",
            "3",
            "4",
        ),
        "content_filter",
    ),
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
BROKEN_OFF: Mapping[str, str] = {
    "error": "server_error",
    "abort": "server_error",
    "insufficient_system_resource": "overloaded",
    "malformed_function_call": "bad_body",
    "unexpected_tool_call": "bad_body",
    "network_error": "server_error",
}


LONGEST_FINISH = 80
ALL_REASONING = (
    "all of it came as reasoning. Turn thinking off, for instance with litellm_kwargs.extra_body = "
    "{chat_template_kwargs = {enable_thinking = false}}, or the server's reasoning parser"
)


@dataclass(frozen=True)
class ResponseParser:
    """Reads bodies for one model at one price."""

    faults: ErrorClassifier
    price: Price | None

    def read(self, body: Any, headers: Mapping[str, str], latency: float) -> Completion:
        """
        Raises:
            TransientError, RequestRejectedError, FatalProviderError: the body holds no usable
                answer.
        """
        try:
            return self._read(body, headers, latency)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError):
            raise self.faults.make("bad_body", shown_body(body)) from None

    def _read(
        self, body: Mapping[str, Any], headers: Mapping[str, str], latency: float
    ) -> Completion:
        choice = self._choice(body, headers)
        message = choice["message"]
        usage = usage_of(body.get("usage"))
        finish = finish_of(choice)
        text, reasoning = text_of(message), reasoning_of(message)
        if reasoning is None and (found := THOUGHTS.match(text) or UNOPENED_THOUGHTS.match(text)):
            reasoning, text = found[1].strip("\n"), found[2]
        self._refused(message, finish, text, reasoning, usage)
        model = body.get("model")
        return Completion(
            text=text,
            finish_reason=FINISHES[finish],
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
            status = count(code) if 400 <= count(code) < 600 else 200
            raise self.faults.of_http(ErrorDetails.of_body(status, {"error": error}, headers))
        if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
            raise self.faults.make("bad_body", "no choices in the reply")
        return choice

    def _refused(
        self,
        message: Mapping[str, Any],
        finish: str,
        text: str,
        reasoning: str | None,
        usage: Usage | None,
    ) -> None:
        if FINISHES.get(finish) == "content_filter":
            raise self.faults.make("content_filter", f"{finish}: {text}", usage=usage)
        if finish in BROKEN_OFF:
            raise self.faults.make(BROKEN_OFF[finish], f"finish_reason {finish}", usage=usage)
        refusal = message.get("refusal") or specific(message).get("refusal")
        if finish == "refusal" or (refusal and not text):
            raise self.faults.make("refusal", str(refusal or text), usage=usage)
        if finish not in FINISHES:
            raise self.faults.make("unknown_finish", finish[:LONGEST_FINISH], usage=usage)
        if not text.strip() and FINISHES[finish] != "length":
            raise self.faults.make("empty", ALL_REASONING if reasoning else "", usage=usage)


def finish_of(choice: Mapping[str, Any]) -> str:
    """Why the answer ended, in one spelling: `FinishReason.MAX_TOKENS` is `max_tokens`."""
    told = choice.get("finish_reason")
    if told is None or isinstance(told, bool):
        return ""
    word = str(told).strip().lower().partition(":")[0].rpartition(".")[2]
    return word.removeprefix("finish_reason_").strip().replace("-", "_").replace(" ", "_")


def text_of(message: Mapping[str, Any]) -> str:
    """The answer: the arguments of the tool that it came through, or the content.

    With neither, JSON among the reasoning: servers with a reasoning parser put the answer of a
    guided request there.
    """
    for call in message.get("tool_calls") or []:
        return replace_surrogates(as_text(call["function"]["arguments"]))
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part_text(part) for part in content)
    elif not isinstance(content, str):
        content = as_text(content)
    if not content.strip():
        reasoning = (reasoning_of(message) or "").strip()
        if reasoning.startswith(("{", "[")) and jsontext.find_container(reasoning) is not None:
            content = reasoning
    return replace_surrogates(content)


def part_text(part: Any) -> str:
    """The text of one content part; a part of another kind has none."""
    if isinstance(part, Mapping):
        text = part.get("text")
        return text if isinstance(text, str) else ""
    return part if isinstance(part, str) else ""


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """The model's own reasoning, where it came apart from the answer."""
    for name in ("reasoning_content", "reasoning"):
        told = message.get(name) or specific(message).get(name)
        if isinstance(told, str) and told:
            return replace_surrogates(told)
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        blocks = [part["thinking"] for part in parts if part.get("type") == "thinking"]
        return replace_surrogates("".join(map(thought_in, blocks))) or None
    return None


def thought_in(block: Any) -> str:
    """Mistral's thinking is a list of texts, others' a text."""
    if isinstance(block, list):
        return "".join(map(part_text, block))
    return str(block)


def specific(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where LiteLLM keeps the fields of a message that OpenAI's format does not have."""
    fields = message.get("provider_specific_fields")
    return fields if isinstance(fields, Mapping) else {}


def shown_body(body: Any) -> str:
    """A body that can't be read, as far as it can be shown."""
    try:
        return as_text(body) if isinstance(body, Mapping) else f"a {type(body).__name__}"
    except (ValueError, RecursionError):
        return "a body that is no JSON"


def usage_of(told: Any) -> Usage | None:
    """Tokens as billed; None where the reply does not say."""
    if not isinstance(told, Mapping):
        return None
    prompt, completion = number(told, "prompt_tokens"), number(told, "completion_tokens")
    if not prompt and not completion:
        return None
    cached = number(told.get("prompt_tokens_details"), "cached_tokens")
    cached = cached or number(told, "prompt_cache_hit_tokens")
    reasoning = number(told.get("completion_tokens_details"), "reasoning_tokens")
    return Usage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def number(told: Any, name: str) -> int:
    """The count of tokens under `name`; 0 where there is none that makes sense."""
    return count(told.get(name)) if isinstance(told, Mapping) else 0


def count(value: Any) -> int:
    """`value` where it is a count, as a number or in digits; else 0."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = float(value.strip()[:20])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value <= MOST_TOKENS else 0
