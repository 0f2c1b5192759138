"""How the teacher is called: sampling, limits, budget, structured output."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nanodistill.config.ranges import Range
from nanodistill.config.settings import Settings, several, shortened

REFUSED_LITELLM_KWARGS = {
    "model": "set `teacher`",
    "messages": "prompts are set by `prompt_templates` and the custom_*_prompt fields",
    "stream": "answers are journaled whole",
    "n": "set `samples_per_input`",
    "num_retries": "set `max_retries`",
    "max_retries": "set the field `max_retries`, outside this table",
    "fallbacks": "a run has one teacher; start another run for another one",
    "context_window_fallback_dict": "a run has one teacher; start another run for another one",
    "response_format": "set `response_model` and `structured_output`",
    "tools": "set `structured_output`",
    "tool_choice": "set `structured_output`",
    "functions": "set `structured_output`",
    "function_call": "set `structured_output`",
    "mock_response": "use a python:module:function teacher",
}


LIMIT_NAMES = ("max_completion_tokens", "max_tokens")
"""What a limit on an answer's tokens is called; a call has one of them at most."""


class TeacherPrice(BaseModel):
    """USD per million tokens, for a model that LiteLLM's table does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Annotated[float, Range(0)]
    output: Annotated[float, Range(0)]


class TeacherSettings(Settings):
    """How every teacher call of the run is made and what it may cost."""

    temperature: Annotated[float, Range(0, 2, liftable=False)] = Field(
        default=0.7,
        description="Sampling temperature of generated inputs and traces; "
        "synthesis_temperature is another name for it.",
    )
    litellm_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Any LiteLLM parameter, sent with every teacher call and taking "
        "precedence over ours (timeout, top_p, api_base, seed, …).",
    )
    instructor_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to instructor, where it is used for structured output.",
    )
    structured_output: Literal["auto", "json_schema", "tools", "json", "text"] = Field(
        default="auto",
        description="How a schema is put to the teacher; auto goes by what the model can do.",
    )
    transport: Literal["auto", "litellm"] = Field(
        default="auto",
        description="auto takes a direct connection where the endpoint speaks OpenAI's chat "
        "format and the result is the same; litellm refuses it.",
    )
    max_concurrency: Annotated[int, Range(1, 1000)] = Field(
        default=200, description="Most teacher calls in flight; the level below it finds itself."
    )
    requests_per_minute: Annotated[int | None, Range(1)] = Field(
        default=None, description="Provider's request limit, kept in every window of a minute."
    )
    tokens_per_minute: Annotated[int | None, Range(1)] = Field(
        default=None, description="Provider's token limit, kept in every window of a minute."
    )
    timeout_seconds: Annotated[float, Range(0, open_ends=True)] = Field(
        default=120.0,
        description="Longest time for one attempt at a call, in seconds "
        "(unset, a local model has an hour).",
    )
    max_retries: Annotated[int, Range(0, 20)] = Field(
        default=3,
        description="Further attempts after a failed one. Waiting for a rate limit is not one.",
    )
    max_output_tokens: Annotated[int | None, Range(1)] = Field(
        default=None,
        description="Limit on the tokens of one answer; unset leaves it to the stage. "
        "litellm_kwargs.max_tokens takes precedence.",
    )
    max_cost_usd: Annotated[float | None, Range(0, open_ends=True)] = Field(
        default=None, description="Hard limit on the run's dollars, calls in flight included."
    )
    max_calls: Annotated[int | None, Range(1)] = Field(
        default=None, description="Hard limit on the run's teacher calls, retries included."
    )
    max_tokens_total: Annotated[int | None, Range(1)] = Field(
        default=None, description="Hard limit on the run's prompt and completion tokens."
    )
    teacher_price: TeacherPrice | None = Field(
        default=None,
        description="USD per million input and output tokens, where LiteLLM knows no price.",
    )

    @field_validator("litellm_kwargs")
    @classmethod
    def _keeps_our_promises(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        refused = kwargs.keys() & REFUSED_LITELLM_KWARGS.keys()
        each = [(key, f"can't be set here: {REFUSED_LITELLM_KWARGS[key]}") for key in refused]
        own = {name: _trimmed(name, value) for name, value in kwargs.items()}
        each += [(name, what) for name, value in own.items() if (what := wrong_value(name, value))]
        if each:
            raise several("litellm_refused", sorted(each))
        return own

    def get_litellm_synthesis_kwargs(self, **stage: Any) -> dict[str, Any]:
        """What every teacher call sends: `litellm_kwargs` over the stage's own over the fields.

        `max_output_tokens` is the user's too and goes before the stage's limit. Every request
        is made of this; a call may have one limit on its tokens, whatever it is called.
        """
        ours = {"temperature": self.temperature, "timeout": self.timeout_seconds, **stage}
        if self.max_output_tokens is not None:
            ours = _without_limits(ours) | {"max_tokens": self.max_output_tokens}
        if any(name in self.litellm_kwargs for name in LIMIT_NAMES):
            ours = _without_limits(ours)
        return ours | self.litellm_kwargs

    def get_litellm_kwargs(self) -> dict[str, Any]:
        """The same as `get_litellm_synthesis_kwargs`."""
        return self.get_litellm_synthesis_kwargs()


def wrong_value(name: str, value: Any) -> str | None:
    """What is wrong with a value of `litellm_kwargs`, by what OpenAI's or LiteLLM's means."""
    if name in NO_NULL and value is None:
        return "is null; leave it out to have none"
    if name in REFUSED_LITELLM_KWARGS or value is None:
        return None
    for kind, (names, words, holds) in KINDS.items():
        if name in names and not holds(value):
            unquoted = kind != "text" and isinstance(value, str)
            hint = "; write it without quotes" if unquoted and _reads_as(kind, value) else ""
            return f"is {shortened(repr(value))}, must be {words}{hint}"
    if name in ADDRESSES:
        return wrong_address(value)
    if name in SECRETS:
        return wrong_secret(value)
    return None


def wrong_address(base: str) -> str | None:
    """What is wrong with a base URL, whoever it is sent to."""
    if any(mark in base for mark in QUOTES) or not base.isprintable() or " " in base:
        return f"is {shortened(repr(base))}: an address has no quotes, blanks or line breaks in it"
    try:
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
    except ValueError as broken:
        return f"is {shortened(repr(base))}: {broken}"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return f"is {shortened(repr(base))}, must begin with http:// or https:// and a host"
    return None


def wrong_secret(key: str) -> str | None:
    """What is wrong with a key or token, in words that do not hold it."""
    if not key:
        return "is empty"
    if key[:1] in QUOTES or key[-1:] in QUOTES:
        return "has quotes round it, which are no part of a key: take them off"
    if not key.isascii():
        odd = next(sign for sign in key if not sign.isascii())
        return f"holds {odd!r}, which no key can: copy it again"
    if not key.isprintable():
        return "holds a line break or a control character in its middle: copy it again"
    if key.lower().startswith("bearer "):
        return "begins with 'Bearer', which is no part of a key: take it off"
    return None


def _trimmed(name: str, value: Any) -> Any:
    """White space round an address or a key is never a part of it."""
    return value.strip() if name in ADDRESSES | SECRETS and isinstance(value, str) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _reads_as(kind: str, text: str) -> bool:
    return text in ("true", "false") if kind == "switch" else bool(NUMBER.fullmatch(text))


QUOTES = "\"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
NUMBER = re.compile(r"\s*[+-]?\d+(\.\d*)?([eE][+-]?\d+)?\s*")
ADDRESSES = frozenset({"api_base", "base_url"})
SECRETS = frozenset({"api_key"})
NO_NULL = frozenset({"timeout"})
TIMES = frozenset({"request_timeout", "stream_timeout", "timeout"})
NUMBERS = frozenset(
    {
        "frequency_penalty", "length_penalty", "min_p", "presence_penalty", "repeat_penalty",
        "repetition_penalty", "temperature", "tfs_z", "top_a", "top_p", "typical_p",
    }
)  # fmt: skip
WHOLE = frozenset(
    {
        "best_of", "max_completion_tokens", "max_tokens", "min_tokens", "num_ctx", "num_predict",
        "seed", "top_k", "top_logprobs",
    }
)  # fmt: skip
SWITCHES = frozenset({"drop_params", "ignore_eos", "logprobs", "parallel_tool_calls", "store"})
TABLES = frozenset(
    {
        "chat_template_kwargs", "default_headers", "extra_body", "extra_headers", "headers",
        "logit_bias", "metadata",
    }
)  # fmt: skip
TEXTS = frozenset({"api_version", "custom_llm_provider", "organization", "user"})
KINDS: dict[str, tuple[frozenset[str], str, Callable[[Any], bool]]] = {
    "time": (TIMES, "a number of seconds over 0", lambda value: _is_number(value) and value > 0),
    "number": (NUMBERS, "a number", _is_number),
    "whole": (WHOLE, "a whole number", _is_whole),
    "switch": (SWITCHES, "true or false", lambda value: isinstance(value, bool)),
    "table": (TABLES, "a table", lambda value: isinstance(value, Mapping)),
    "text": (TEXTS | ADDRESSES | SECRETS, "a text", lambda value: isinstance(value, str)),
}


def _without_limits(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in LIMIT_NAMES}
