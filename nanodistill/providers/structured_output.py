"""How a JSON schema is put to a teacher: natively, as a tool, in JSON mode, or in words.

    json_schema   response_format with the schema, strict where the schema allows it
    tools         one tool that has to be called, whose parameters are the schema
    json          JSON mode, with the schema in the system prompt
    text          the schema in the system prompt alone

`auto` starts with what the model supports, as far as LiteLLM knows. The next form is taken, once
for the run, where the provider says that it does not take this one; where it answers the same
request in another form but not in this one, whatever it says; and where its first answers are not
JSON of the schema's shape. The form that worked is kept with the run. A form that the user chose is
never left: a refusal then stops the run.

The native form is ours. The others are instructor's, which knows how models without native schemas
are best asked; it writes each once for a run and schema, by being handed a completion function that
keeps what it is given. (`instructor` around every call costs 7 ms of processor time, and its re-
asks grow the conversation; our one repair is a request of its own.)
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import anyio
from anyio import to_thread
from pydantic import BaseModel

from nanodistill import jsontext
from nanodistill.errors import CallError, TransientError
from nanodistill.providers.base import FURTHER, Reply
from nanodistill.providers.error_classifier import ErrorClassifier
from nanodistill.providers.exception_table import UNKNOWN_MODEL
from nanodistill.providers.lazy_imports import load_instructor, load_litellm
from nanodistill.providers.model_resolution import Resolved
from nanodistill.providers.unsupported_params import LeftOut
from nanodistill.types import Completion, Message, Request, canonical_json, schema_json

Form = Literal["json_schema", "tools", "json", "text"]
INSTRUCTOR_MODES: Mapping[Form, str] = {"tools": "TOOLS", "json": "JSON", "text": "MD_JSON"}
MODES = ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON")
"""Those of instructor's that ask a provider of OpenAI's format for one answer."""
ANSWER = "Answer"


@dataclass(frozen=True)
class RequestOverlay:
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


PLAIN = RequestOverlay({})


async def build_overlay(
    form: Form, schema: Mapping[str, Any], instructor_kwargs: Mapping[str, Any]
) -> RequestOverlay:
    """A schema in a form."""
    if form == "json_schema":
        return RequestOverlay({"response_format": native(schema)})
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
    except _OpenSchemaError:
        return None


class _OpenSchemaError(Exception):
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
        raise _OpenSchemaError
    if set(properties) != set(own.get("required", ())):
        raise _OpenSchemaError
    return own | {"additionalProperties": False}


class _Kept(BaseException):
    """Ends instructor's call once it has said what it would send; no retry catches it."""


async def worded_by_instructor(
    mode: str, schema: Mapping[str, Any], instructor_kwargs: Mapping[str, Any]
) -> RequestOverlay:
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


def _wording_in(kept: Mapping[str, Any]) -> RequestOverlay:
    arguments = dict(kept)
    messages = arguments.pop("messages")
    system, user = messages[0]["content"], messages[-1]["content"]
    if not (len(messages) == 2 and system.startswith("S") and user.startswith("U")):
        raise NotImplementedError("instructor has put the messages in another order")
    return RequestOverlay(arguments, after_system=system[1:], after_user=user[1:])


def answer_model(schema: Mapping[str, Any]) -> type[BaseModel]:
    """A model for instructor that has exactly this JSON schema."""
    described = {"title": ANSWER, "description": "The answer.", **schema}

    class Answer(BaseModel):
        """The answer."""

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG003
            return json.loads(json.dumps(described))  # type: ignore[no-any-return]

    return Answer


FALLBACK_ORDER: tuple[Form, ...] = get_args(Form)
ANSWERS_TO_WATCH = 3
FAILURES_TO_WATCH = 3
"""Failures in a row from which on the form may be the reason, where one alone says nothing."""
MOST_TRIALS = 2
"""Requests that are tried in the other forms in vain, before the form is out of suspicion."""


@dataclass
class StructuredOutput:
    """The form of a run, and what each schema looks like in it.

    `steps` are the forms to try, best first; one form is a choice that is kept. `on_step` hears
    of a form that was left, with the reason, before the next request goes out. `parameters` are
    what the provider does not take beside it.
    """

    steps: tuple[Form, ...]
    faults: ErrorClassifier
    instructor_kwargs: Mapping[str, Any]
    on_step: Callable[[Form, str], None]
    parameters: LeftOut
    _proven: set[str] = field(default_factory=set)
    _misses: int = 0
    _failures: int = 0
    _trials: int = 0
    _has_answered: bool = False
    _trying: anyio.Lock = field(default_factory=anyio.Lock)
    _wordings: dict[tuple[Form, str], RequestOverlay] = field(default_factory=dict)
    _latest: tuple[Form, Mapping[str, Any], RequestOverlay] = ("text", {}, PLAIN)

    @property
    def form(self) -> Form:
        return self.steps[0]

    async def wording(self, form: Form, schema: Mapping[str, Any] | None) -> RequestOverlay:
        """What to add to a request for an answer of this schema."""
        if schema is None:
            return PLAIN
        latest_form, latest_schema, latest = self._latest
        if schema is latest_schema and form == latest_form:
            return latest
        named = (form, canonical_json(schema))
        if named not in self._wordings:
            self._wordings[named] = await build_overlay(form, schema, self.instructor_kwargs)
        self._latest = (form, schema, self._wordings[named])
        return self._wordings[named]

    async def ask(
        self, request: Request, attempt: Callable[[RequestOverlay], Awaitable[Reply]]
    ) -> Reply:
        """Attempt a request, worded in the form of the run.

        A provider that refuses the form or a parameter bills nothing for saying so; the attempt
        is then made in the next form, or without it.
        """
        schema = request.schema
        while True:
            form, sent = self.form, self.parameters.sent(request.params)
            wording = await self.wording(form, schema)
            try:
                reply = await attempt(wording)
            except CallError as error:
                if self.parameters.learn(error, request.params, sent):
                    self._count_further(error)
                elif error.kind == "format":
                    self._refused(form, schema, error)
                    self._count_further(error)
                elif schema is None or not self._may_be_the_form(form, schema, error):
                    raise
                elif (other := await self._tried(form, schema, error, attempt)) is not None:
                    return other
            else:
                self._has_answered, self._failures = True, 0
                if schema is not None:
                    self._watch(form, schema, reply.completion)
                return reply

    def _count_further(self, error: CallError) -> None:
        """See that one more attempt may be made, else leave it to the engine to say why not.

        What LiteLLM refused by itself, without a status, was no attempt.
        """
        if error.status is not None and not FURTHER.get()(error):
            raise TransientError("format", error.message, status=error.status) from None

    def _may_be_the_form(self, form: Form, schema: Mapping[str, Any], error: CallError) -> bool:
        """Whether another form might be answered where this one is not."""
        if form != self.form:
            return True
        if len(self.steps) == 1 or self._trials >= MOST_TRIALS:
            return False
        if schema_json(schema) in self._proven:
            return False
        match error.kind:
            case "bad_request" | "parameter":
                return True
            case "not_found":
                return self._has_answered and not UNKNOWN_MODEL.search(error.message)
            case "server_error" | "bad_body" if error.status is not None:
                self._failures += 1
                return self._failures >= FAILURES_TO_WATCH
        return False

    async def _tried(
        self,
        form: Form,
        schema: Mapping[str, Any],
        error: CallError,
        attempt: Callable[[RequestOverlay], Awaitable[Reply]],
    ) -> Reply | None:
        """The answer in another form, which is then taken; None where the form was left already.

        Raises:
            CallError: `error`, where no form is answered.
        """
        async with self._trying:
            if self.form != form:
                self._count_further(error)
                return None
            if self._trials >= MOST_TRIALS:
                raise error
            for other in self.steps[1:]:
                self._count_further(error)
                try:
                    reply = await attempt(await self.wording(other, schema))
                except CallError as another:
                    if isinstance(another, TransientError) and another.is_refusal:
                        raise
                    continue
                self._step(error.message, to=other)
                self._watch(other, schema, reply.completion)
                return reply
            self._trials += 1
        raise error

    def _refused(self, form: Form, schema: Mapping[str, Any] | None, error: CallError) -> None:
        """The provider said no to `form`: leave it, or raise what that means for the call."""
        if schema is None or (form == self.form == "text"):
            raise self.faults.make("bad_request", error.message, status=error.status) from None
        if form != self.form:
            return
        if len(self.steps) == 1:
            way_out = 'set structured_output = "auto" or another form'
            told = f'{error.message}; structured_output is "{form}": {way_out}'
            raise self.faults.make("parameter", told, status=error.status) from None
        self._step(error.message)

    def _watch(self, form: Form, schema: Mapping[str, Any], completion: Completion) -> None:
        """Look at the first answers for a provider that ignores the form."""
        if form != self.form or completion.finish_reason == "length":
            return
        named = schema_json(schema)
        if named in self._proven:
            return
        if has_shape(completion.text, schema):
            self._proven.add(named)
            return
        if self._proven or len(self.steps) == 1:
            return
        self._misses += 1
        if self._misses >= ANSWERS_TO_WATCH:
            self._step(f"the first {self._misses} answers were no JSON of the wanted shape")

    def _step(self, why: str, to: Form | None = None) -> None:
        """Leave the form for `to`, or for the next one."""
        self.steps = self.steps[1 if to is None else self.steps.index(to) :]
        self._misses = self._failures = 0
        self._proven.clear()
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
    return tuple(form for form in FALLBACK_ORDER if can[form])


@dataclass
class ModeCache:
    """Keeps with a run what worked with one teacher: the form, and what is left out.

    What is remembered is text: a line with the teacher and the form, and in a second one the
    parameters, where any are left out. Another teacher's is ignored.
    """

    teacher: str
    remember: Callable[[str], None]
    tell: Callable[[str], None]
    _form: str = "-"

    def __post_init__(self) -> None:
        self.parameters = LeftOut(self._left_out)

    def resumed(self, remembered: str | None, steps: tuple[Form, ...]) -> tuple[Form, ...]:
        """The forms of `steps` to go on with."""
        line, _, left_out = (remembered or "").partition("\n")
        teacher, _, form = line.rpartition(" ")
        if teacher != self.teacher:
            return steps
        if left_out:
            self.parameters.recall(left_out)
        worked = [step for step in steps if step == form]
        if not worked:
            return steps
        self._form = worked[0]
        return steps[steps.index(worked[0]) :]

    def stepped(self, form: Form, why: str) -> None:
        self._form = form
        self._keep()
        self.tell(f'Structured output goes on as "{form}": {why}')

    def _left_out(self, what: str) -> None:
        self._keep()
        self.tell(f"{self.teacher.rpartition(' ')[2]}: {what}")

    def _keep(self) -> None:
        left_out = self.parameters.to_note()
        self.remember(f"{self.teacher} {self._form}\n{left_out}")


def has_shape(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text holds JSON with what the schema requires at its top."""
    held = jsontext.find_container(text)
    if schema.get("type") != "object":
        return held is not None
    return isinstance(held, dict) and set(schema.get("required", ())) <= set(held)
