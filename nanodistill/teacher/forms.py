"""How a schema is put to a teacher: natively, as a tool, in JSON mode, or in words.

    json_schema   response_format with the schema, strict where the schema allows it
    tools         one tool that has to be called, whose parameters are the schema
    json          JSON mode, with the schema in the system prompt
    text          the schema in the system prompt alone

The last three are instructor's to write: it knows how models without native schemas are best
asked. It writes each once for a run and schema, by being handed a completion function that
keeps what it is given; calls then cost no more than plain ones. (`instructor` around every call
costs 7 ms of CPU, and its re-asks grow the conversation; our one repair is a request of its own.)

`auto` starts with what the model can do, as far as LiteLLM knows. A provider that refuses the
form with a 400, or whose first answers are no JSON of the schema's shape, is stepped down, once
for the run, and the form that worked is remembered with the run. A form that the user chose is
not left: a refusal then stops the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from anyio import to_thread
from pydantic import BaseModel

from nanodistill.errors import CallError
from nanodistill.records import Message, canonical_json
from nanodistill.teacher.faults import Faults
from nanodistill.teacher.libraries import load_instructor, load_litellm
from nanodistill.teacher.resolving import Resolved

Form = Literal["json_schema", "tools", "json", "text"]
LADDER: tuple[Form, ...] = get_args(Form)
ANSWERS_TO_WATCH = 3
ANSWER = "Answer"

INSTRUCTOR_MODES: Mapping[Form, str] = {"tools": "TOOLS", "json": "JSON", "text": "MD_JSON"}


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


@dataclass
class StructuredOutput:
    """The form of a run, and what each schema looks like in it.

    `steps` are the forms to try, best first; one form is a choice that is kept. `on_step` hears
    of a form that was left, with the reason, before the next request goes out.
    """

    steps: tuple[Form, ...]
    faults: Faults
    instructor_kwargs: Mapping[str, Any]
    on_step: Callable[[Form, str], None]
    _proven: bool = False
    _misses: int = 0
    _wordings: dict[tuple[Form, str], Wording] = field(default_factory=dict)
    _latest: tuple[Form, Mapping[str, Any], Wording] = ("text", {}, PLAIN)

    @property
    def form(self) -> Form:
        return self.steps[0]

    async def wording(self, schema: Mapping[str, Any] | None) -> Wording:
        """What to add to a request for an answer of this schema."""
        if schema is None:
            return PLAIN
        form, (latest_form, latest_schema, latest) = self.form, self._latest
        if schema is latest_schema and form == latest_form:
            return latest
        named = (form, canonical_json(schema))
        if named not in self._wordings:
            self._wordings[named] = await put(form, schema, self.instructor_kwargs)
        self._latest = (form, schema, self._wordings[named])
        return self._wordings[named]

    def judged(self, form: Form, schema: Mapping[str, Any] | None, error: CallError) -> CallError:
        """What becomes of a call in `form` that failed: a refusal of the form steps down."""
        if error.kind != "format":
            return error
        if schema is None:
            return self.faults.make("bad_request", error.message, status=error.status)
        if form != self.form:
            return error
        if len(self.steps) == 1:
            way_out = 'set structured_output = "auto" or another form'
            told = f'{error.message}; structured_output is "{form}": {way_out}'
            return self.faults.make("parameter", told, status=error.status)
        self._step(error.message)
        return error

    def answered(self, form: Form, schema: Mapping[str, Any], text: str) -> None:
        """Watch the first answers for a provider that ignores the form."""
        if self._proven or form != self.form or len(self.steps) == 1:
            return
        if has_shape(text, schema):
            self._proven = True
            return
        self._misses += 1
        if self._misses >= ANSWERS_TO_WATCH:
            self._step(f"the first {self._misses} answers were no JSON of the wanted shape")

    def _step(self, why: str) -> None:
        self.steps = self.steps[1:]
        self._misses = 0
        self.on_step(self.form, why)


def first_forms(teacher: Resolved, chosen: Form | Literal["auto"]) -> tuple[Form, ...]:
    """The forms to try with a teacher, best first, by what LiteLLM knows of it.

    A model that LiteLLM does not know, behind a provider that takes response_format, is taken to
    do JSON schemas: vLLM, SGLang, llama.cpp, Ollama and LM Studio do.
    """
    if chosen != "auto":
        return (chosen,)
    litellm = load_litellm()
    names = {"model": teacher.bare, "custom_llm_provider": teacher.provider}
    taken = litellm.get_supported_openai_params(**names) or ()
    takes_format, known = "response_format" in taken, teacher.is_known
    tools = litellm.supports_function_calling(**names) or (not known and "tools" in taken)
    can: dict[Form, bool] = {
        "json_schema": litellm.supports_response_schema(**names) or (takes_format and not known),
        "tools": tools,
        "json": takes_format,
        "text": True,
    }
    return tuple(form for form in LADDER if can[form])


@dataclass(frozen=True)
class Memory:
    """Keeps the form that worked with a run, for one teacher.

    What is remembered is a line of text: the teacher and the form. Another teacher's is ignored.
    """

    teacher: str
    remember: Callable[[str], None]
    tell: Callable[[str, str], None]

    def resumed(self, remembered: str | None, steps: tuple[Form, ...]) -> tuple[Form, ...]:
        teacher, _, form = (remembered or "").rpartition(" ")
        worked = [step for step in steps if step == form and teacher == self.teacher]
        return steps[steps.index(worked[0]) :] if worked else steps

    def stepped(self, form: Form, why: str) -> None:
        self.remember(f"{self.teacher} {form}")
        self.tell(form, why)


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

    chosen_mode = instructor.Mode[str(chosen.pop("mode", mode)).rpartition(".")[2].upper()]
    client = instructor.from_litellm(keep, mode=chosen_mode)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    with suppress(_Kept):
        await client.chat.completions.create(
            response_model=answer_model(schema), messages=messages, max_retries=0, **chosen
        )
    return _wording_in(kept)


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


def has_shape(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text holds JSON with what the schema requires at its top."""
    held = json_in(text)
    if schema.get("type") != "object":
        return held is not None
    return isinstance(held, dict) and set(schema.get("required", ())) <= set(held)


def json_in(text: str) -> Any:
    """The first JSON object or list in a text, whatever stands around it; None without one."""
    decoder = json.JSONDecoder()
    for at, character in enumerate(text):
        if character in "{[":
            try:
                return decoder.raw_decode(text, at)[0]
            except ValueError:
                continue
    return None
