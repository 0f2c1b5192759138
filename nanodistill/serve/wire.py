"""Requests read, answers and errors written, in the words of OpenAI's chat interface.

A parameter that would change the answer and can't be followed is refused by
name; nothing is dropped in silence but what has no bearing on the answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nanodistill.records import FinishReason, Message
from nanodistill.thinking import Format

MOST_STOPS = 16
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
BESIDE_THE_POINT = {
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip


class Refused(Exception):
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
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """One message. What a client's library adds to an answer that it sends back is let in."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


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
    messages: Annotated[list[Turn], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def conversation(self, instruction: str, form: Format) -> list[Message]:
        """The messages for the model: the instruction first, unless the client sends a system
        message, which then takes its place."""
        turns = [_message(turn, form) for turn in self.messages]
        if turns[-1]["role"] != "user":
            raise Refused(400, "The last message must be the user's.", param="messages")
        if any(turn["role"] == "system" for turn in turns):
            return turns
        return [Message(role="system", content=instruction), *turns]


def _message(turn: Turn, form: Format) -> Message:
    if turn.role == "assistant" and turn.reasoning_content:
        text = form.format(turn.reasoning_content, turn.text)
        return Message(role="assistant", content=text)
    return Message(role="system" if turn.role == "developer" else turn.role, content=turn.text)


def read_request(value: Any) -> ChatRequest:
    """The request in a parsed body.

    Raises:
        Refused: something in it is wrong, or can't be followed.
    """
    if not isinstance(value, dict):
        raise Refused(400, "The body must be a JSON object.")
    kept = {key: held for key, held in value.items() if key not in BESIDE_THE_POINT}
    for key, allowed in NEUTRAL.items():
        if kept.pop(key, None) not in allowed:
            raise Refused(
                400, f"{key} is not supported by this server.", param=key, code="unsupported_value"
            )
    try:
        return ChatRequest.model_validate(kept)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(400, f"{where}: {first['msg']}", param=where) from invalid


@dataclass(frozen=True)
class Usage:
    """Tokens of one request; those of answers that were drawn again are in it."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {**vars(self), "total_tokens": total}


@dataclass(frozen=True)
class Envelope:
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
