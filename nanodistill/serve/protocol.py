"""Requests read, answers and errors written, in the words of OpenAI's chat interface.

A parameter that would change the answer and can't be followed is refused by
name; nothing is dropped in silence but what has no bearing on the answer.
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

MOST_STOPS = 16
SURROGATE = re.compile("[\ud800-\udfff]")
LARGEST = (1 << 63) - 1
COLDEST = 1e-4
TEXT_PARTS = ("text", "input_text", "output_text")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
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
"""Parameters of OpenAI's that are accepted only with values that change nothing."""
IGNORED_FIELDS = {
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip


class APIError(Exception):
    """A request that is answered with an error. `param` is what of it is wrong."""

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
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind.get(self.status, usual)}
        return {"error": {**error, "param": self.param, "code": self.code}}


class TextPart(BaseModel):
    """A part of a message. What else it holds (`cache_control`, `annotations`) is let be."""

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


def _parts(content: Any) -> Any:
    """Text is one part of it."""
    if isinstance(content, str):
        return [TextPart(type="text", text=content)]
    if content is None or isinstance(content, list):
        return content
    raise PydanticCustomError("content", "Input should be text or a list of parts")


def _texts(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _number(value: Any) -> Any:
    """Text and truth values are no numbers in JSON."""
    if isinstance(value, str | bool):
        raise PydanticCustomError("number", "Input should be a number")
    return value


def _whole(value: Any) -> Any:
    """-1 is what many clients send for "no limit"."""
    return None if _number(value) == -1 else value


Number = BeforeValidator(_number)
Whole = BeforeValidator(_whole)
Positive = Annotated[Annotated[int, Field(ge=1, le=LARGEST)] | None, Whole]
NotNegative = Annotated[Annotated[int, Field(ge=0, le=LARGEST)] | None, Whole]
Share = Annotated[float, Number, Field(ge=0, le=1, allow_inf_nan=False)]


class ChatMessage(BaseModel):
    """One message. What a client's library adds to an answer that it sends back is let in."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart] | None, BeforeValidator(_parts)] = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content or [])


class NamedSchema(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str | None = None
    strict: bool | None = None
    held: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with type 'json_schema', and with no other")
        return self


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is read of a request. Unset sampling parameters mean greedy, as evaluation asks."""

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
        Annotated[list[str], Field(max_length=MOST_STOPS)] | None, BeforeValidator(_texts)
    ] = None

    @property
    def warmth(self) -> float:
        """The temperature; one so near to 0 that nothing could be divided by it is 0."""
        given = self.temperature or 0.0
        return given if given >= COLDEST else 0.0

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(text for text in self.stop or [] if text)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def conversation(self, instruction: str, form: Format) -> list[Message]:
        """The messages for the model: the instruction first, unless the client sends a system
        message, which then takes its place."""
        turns = [_message(turn, form) for turn in self.messages]
        if turns[-1]["role"] != "user":
            raise APIError(400, "The last message must be the user's.", param="messages")
        if any(turn["role"] == "system" for turn in turns):
            return turns
        return [Message(role="system", content=instruction), *turns]


def _message(turn: ChatMessage, form: Format) -> Message:
    if turn.role == "assistant" and turn.reasoning_content:
        text = form.format(turn.reasoning_content, turn.text)
        return Message(role="assistant", content=text)
    return Message(role="system" if turn.role == "developer" else turn.role, content=turn.text)


def _check_text(body: Mapping[str, Any]) -> None:
    """JSON can hold half a character, which no text can.

    Raises:
        Refused: there is one.
    """
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, str):
            if SURROGATE.search(value):
                raise APIError(
                    400,
                    f"{where}: half of a surrogate pair is no character.",
                    param=where,
                    code="invalid_request",
                )
        elif isinstance(value, Mapping):
            if any(SURROGATE.search(key) for key in value):
                raise APIError(
                    400, "A name has half of a surrogate pair.", param=where or None,
                    code="invalid_request",
                )  # fmt: skip
            waiting += [(f"{where}.{key}" if where else key, held) for key, held in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{where}.{n}", held) for n, held in enumerate(value)]


def read_request(value: Any) -> ChatRequest:
    """The request in a parsed body.

    Raises:
        Refused: something in it is wrong, or can't be followed.
    """
    if not isinstance(value, dict):
        raise APIError(400, "The body must be a JSON object.")
    _check_text(value)
    kept = {key: held for key, held in value.items() if key not in IGNORED_FIELDS}
    for key, allowed in NEUTRAL.items():
        if kept.pop(key, None) not in allowed:
            raise APIError(
                400, f"{key} is not supported by this server.", param=key, code="unsupported_value"
            )
    try:
        return ChatRequest.model_validate(kept)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise APIError(400, f"{where}: {first['msg']}", param=where) from invalid


@dataclass(frozen=True)
class Usage:
    """Tokens of one request; those of answers that were drawn again are in it."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {**vars(self), "total_tokens": total}


@dataclass(frozen=True)
class ResponseBuilder:
    """What all parts of one answer have in common."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(
        self, content: str, thinking: str | None, reason: FinishReason, usage: Usage
    ) -> dict[str, Any]:
        thought = {"reasoning_content": thinking} if thinking else {}
        message = {"role": "assistant", "content": content, "refusal": None, **thought}
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
