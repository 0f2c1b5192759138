"""Requests, responses and errors in the format of OpenAI's chat completions API.

A parameter that would change the answer and is not supported is refused by name;
only parameters without any bearing on the answer are ignored.

Format: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nanodistill.thinking import Format
from nanodistill.types import FinishReason, Message

# OpenAI takes 4. Each one is searched for in every step.
MAX_STOP_TEXTS = 16
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_INTEGER = (1 << 63) - 1  # what MLX's seeds and sizes hold
# Sampling so cold is greedy, and dividing logits by still less may overflow.
MIN_TEMPERATURE = 1e-4
TEXT_PARTS = ("text", "input_text", "output_text")
# Parameters that are accepted only with values that change nothing.
NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
}
IGNORED_FIELDS = {
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip


class APIError(Exception):
    """An error response. `param` is the field of the request that caused it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def to_json(self) -> dict[str, Any]:
        types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": types.get(self.status, default)}
        return {"error": {**error, "param": self.param, "code": self.code}}


class TextPart(BaseModel):
    """A part of a message. Other fields (`cache_control`, `annotations`) are ignored."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text", "input_text", "output_text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            raise PydanticCustomError(
                "not_text",
                "{kind} is not supported by this server, which reads text",
                {"kind": kind},
            )
        return value


def _as_parts(content: Any) -> Any:
    if isinstance(content, str):
        return [TextPart(type="text", text=content)]
    if content is None or isinstance(content, list):
        return content
    raise PydanticCustomError("content", "Input should be text or a list of parts")


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _json_number(value: Any) -> Any:
    """Pydantic would take texts and truth values for numbers."""
    if isinstance(value, str | bool):
        raise PydanticCustomError("number", "Input should be a number")
    return value


def _json_integer(value: Any) -> Any:
    """Many clients send -1 for "no limit"."""
    return None if _json_number(value) == -1 else value


Number = BeforeValidator(_json_number)
Integer = BeforeValidator(_json_integer)
Positive = Annotated[Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None, Integer]
NotNegative = Annotated[Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None, Integer]
Share = Annotated[float, Number, Field(ge=0, le=1, allow_inf_nan=False)]


class ChatMessage(BaseModel):
    """One message. Clients send answers back with fields of their library, which are ignored."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart] | None, BeforeValidator(_as_parts)] = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def for_model(self, thinking_format: Format) -> Message:
        """The message with its thinking where the model was trained to write it."""
        text = "".join(part.text for part in self.content or [])
        if self.role == "assistant" and self.reasoning_content:
            text = thinking_format.format(self.reasoning_content, text)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class NamedSchema(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str | None = None
    strict: bool | None = None
    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is required with type 'json_schema', and only with it")
        return self


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request. Without sampling parameters it decodes greedily, as evaluation does."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Positive = None
    max_completion_tokens: Positive = None
    temperature: Annotated[float, Number, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[Share, Field(gt=0)] | None = None
    top_k: NotNegative = None
    min_p: Share | None = None
    repetition_penalty: (
        Annotated[float, Number, Field(ge=0.01, le=100, allow_inf_nan=False)] | None
    ) = None
    seed: NotNegative = None
    stop: Annotated[
        Annotated[list[str], Field(max_length=MAX_STOP_TEXTS)] | None, BeforeValidator(_as_list)
    ] = None

    @property
    def effective_temperature(self) -> float:
        temperature = self.temperature or 0.0
        return temperature if temperature >= MIN_TEMPERATURE else 0.0

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def conversation(self, instruction: str, thinking_format: Format) -> list[Message]:
        """The messages for the model, after `instruction` unless there is a system message.

        Raises:
            APIError: the last message is not the user's.
        """
        messages = [message.for_model(thinking_format) for message in self.messages]
        if messages[-1]["role"] != "user":
            raise APIError(400, "The last message must be the user's.", param="messages")
        if any(message["role"] == "system" for message in messages):
            return messages
        return [Message(role="system", content=instruction), *messages]


def read_request(value: Any) -> ChatRequest:
    """The request in a parsed body.

    Raises:
        APIError: a field is invalid or not supported.
    """
    if not isinstance(value, dict):
        raise APIError(400, "The body must be a JSON object.")
    _check_characters(value)
    fields = {key: item for key, item in value.items() if key not in IGNORED_FIELDS}
    for key, allowed in NEUTRAL_VALUES.items():
        if fields.pop(key, None) not in allowed:
            raise APIError(
                400, f"{key} is not supported by this server.", param=key, code="unsupported_value"
            )
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise APIError(400, f"{path}: {first['msg']}", param=path) from error


def _check_characters(body: Mapping[str, Any]) -> None:
    """Refuse half a surrogate pair, which JSON can write and no tokenizer reads."""
    # Not recursive: JSON may be nested deeper than Python calls.
    pending: list[tuple[str, Any]] = [("", body)]
    while pending:
        path, value = pending.pop()
        texts: list[str] = []
        if isinstance(value, str):
            texts = [value]
        elif isinstance(value, Mapping):
            texts = list(value)
            pending += [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [(f"{path}.{n}", item) for n, item in enumerate(value)]
        if any(SURROGATE.search(text) for text in texts):
            message = f"{path or 'body'}: half of a surrogate pair is not a character."
            raise APIError(400, message, param=path or None, code="invalid_request")


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, over all its attempts."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {**vars(self), "total_tokens": total}


@dataclass(frozen=True)
class ResponseBuilder:
    """Builds a response, or its chunks, with a common head."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(
        self, content: str, thinking: str | None, reason: FinishReason, usage: Usage
    ) -> dict[str, Any]:
        reasoning = {"reasoning_content": thinking} if thinking else {}
        message = {"role": "assistant", "content": content, "refusal": None, **reasoning}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage.to_json()}

    def chunk(self, delta: Mapping[str, Any], reason: FinishReason | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage.to_json()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
