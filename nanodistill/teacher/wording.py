"""What each form of structured output adds to a request.

The native form is ours: OpenAI's response_format, strict where that keeps the schema's meaning.
The others are instructor's to write, who knows how models without native schemas are best asked.
It writes each once for a run and schema, by being handed a completion function that keeps what
it is given; calls then cost no more than plain ones. (`instructor` around every call costs 7 ms
of processor time, and its re-asks grow the conversation; our one repair is a request of its own.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread
from pydantic import BaseModel

from nanodistill.records import Message
from nanodistill.teacher.libraries import load_instructor

Form = Literal["json_schema", "tools", "json", "text"]
INSTRUCTOR_MODES: Mapping[Form, str] = {"tools": "TOOLS", "json": "JSON", "text": "MD_JSON"}
MODES = ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON")
"""Those of instructor's that ask a provider of OpenAI's format for one answer."""
ANSWER = "Answer"


@dataclass(frozen=True)
class Wording:
    """What a form adds to a request: arguments, and text after system and last user message."""

    arguments: Mapping[str, Any]
    after_system: str = ""
    after_user: str = ""

    def words(self, messages: tuple[Message, ...]) -> list[Message]:
        worded = list(messages)
        if self.after_user:
            worded[-1] = _longer(worded[-1], self.after_user)
        if self.after_system and worded[0]["role"] == "system":
            worded[0] = _longer(worded[0], self.after_system)
        elif self.after_system:
            worded.insert(0, {"role": "system", "content": self.after_system.lstrip()})
        return worded


def _longer(message: Message, text: str) -> Message:
    return {"role": message["role"], "content": message["content"] + text}


PLAIN = Wording({})


async def put(
    form: Form, schema: Mapping[str, Any], instructor_kwargs: Mapping[str, Any]
) -> Wording:
    """A schema in a form."""
    if form == "json_schema":
        return Wording({"response_format": native(schema)})
    return await worded_by_instructor(INSTRUCTOR_MODES[form], schema, instructor_kwargs)


def native(schema: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's response_format for a schema."""
    strict = strictly(schema)
    wanted = {"name": ANSWER, "schema": strict or schema, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": wanted}


def strictly(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema under the rules of OpenAI's strict mode, or None where it would mean another.

    Every object closed and all of its properties required; defaults left out, being only notes.
    An object with optional or free properties can't be told strictly.
    """
    if schema.get("type") != "object":
        return None
    try:
        return {name: _close(name, part) for name, part in _object(schema).items()}
    except _Open:
        return None


class _Open(Exception):
    """A part of a schema that strict mode can't say."""


def _close(name: str, part: Any) -> Any:
    if name in ("properties", "$defs", "definitions"):
        return {key: _close("", value) for key, value in part.items()}
    if isinstance(part, list) and name in ("anyOf", "oneOf", "allOf"):
        return [_close("", option) for option in part]
    if isinstance(part, Mapping) and name in ("", "items"):
        return {key: _close(key, value) for key, value in _object(part).items()}
    return part


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """One level of a schema: an object closed, without its default."""
    own = {key: value for key, value in schema.items() if key != "default"}
    if own.get("type") != "object" and "properties" not in own:
        return own
    properties = own.get("properties") or {}
    if not properties or own.get("additionalProperties"):
        raise _Open
    if set(properties) != set(own.get("required", ())):
        raise _Open
    return own | {"additionalProperties": False}


class _Kept(BaseException):
    """Ends instructor's call once it has said what it would send; no retry catches it."""


async def worded_by_instructor(
    mode: str, schema: Mapping[str, Any], instructor_kwargs: Mapping[str, Any]
) -> Wording:
    """What instructor adds to a request so that the answer is an instance of the schema."""
    instructor = await to_thread.run_sync(load_instructor)
    chosen = dict(instructor_kwargs)
    kept: dict[str, Any] = {}

    async def keep(**arguments: Any) -> None:
        kept.update(arguments)
        raise _Kept

    chosen_mode = instructor.Mode[mode_named(chosen.pop("mode", mode))]
    client = instructor.from_litellm(keep, mode=chosen_mode)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    with suppress(_Kept):
        await client.chat.completions.create(
            response_model=answer_model(schema), messages=messages, max_retries=0, **chosen
        )
    return _wording_in(kept)


def mode_named(mode: object) -> str:
    """The name of one of instructor's modes, given as a name or as the mode itself."""
    return str(mode).rpartition(".")[2].upper()


def _wording_in(kept: Mapping[str, Any]) -> Wording:
    arguments = dict(kept)
    messages = arguments.pop("messages")
    system, user = messages[0]["content"], messages[-1]["content"]
    if not (len(messages) == 2 and system.startswith("S") and user.startswith("U")):
        raise NotImplementedError("instructor has put the messages in another order")
    return Wording(arguments, after_system=system[1:], after_user=user[1:])


def answer_model(schema: Mapping[str, Any]) -> type[BaseModel]:
    """A model for instructor that has exactly this JSON schema."""
    described = {"title": ANSWER, "description": "The answer.", **schema}

    class Answer(BaseModel):
        """The answer."""

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG003
            return json.loads(json.dumps(described))  # type: ignore[no-any-return]

    return Answer
