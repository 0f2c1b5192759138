"""How a schema is put to a teacher: natively, as a tool, in JSON mode, or in words.

    json_schema   response_format with the schema, strict where the schema allows it
    tools         one tool that has to be called, whose parameters are the schema
    json          JSON mode, with the schema in the system prompt
    text          the schema in the system prompt alone

`auto` starts with what the model can do, as far as LiteLLM knows. The next form is taken, once for
the run, where the provider says that it does not take this one; where it answers the same request
in another form but not in this one, whatever it says; and where its first answers are no JSON of
the schema's shape. The form that worked is remembered with the run. A form that the user chose is
not left: a refusal then stops the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import anyio

from nanodistill import jsontext
from nanodistill.errors import CallError, Transient
from nanodistill.records import Completion, Request, canonical_json, schema_json
from nanodistill.teacher.evidence import UNKNOWN_MODEL
from nanodistill.teacher.faults import Faults
from nanodistill.teacher.libraries import load_litellm
from nanodistill.teacher.parameters import LeftOut
from nanodistill.teacher.provider import FURTHER, Reply
from nanodistill.teacher.resolving import Resolved
from nanodistill.teacher.wording import PLAIN, Form, Wording, put

LADDER: tuple[Form, ...] = get_args(Form)
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
    faults: Faults
    instructor_kwargs: Mapping[str, Any]
    on_step: Callable[[Form, str], None]
    parameters: LeftOut
    _proven: set[str] = field(default_factory=set)
    _misses: int = 0
    _failures: int = 0
    _trials: int = 0
    _has_answered: bool = False
    _trying: anyio.Lock = field(default_factory=anyio.Lock)
    _wordings: dict[tuple[Form, str], Wording] = field(default_factory=dict)
    _latest: tuple[Form, Mapping[str, Any], Wording] = ("text", {}, PLAIN)

    @property
    def form(self) -> Form:
        return self.steps[0]

    async def wording(self, form: Form, schema: Mapping[str, Any] | None) -> Wording:
        """What to add to a request for an answer of this schema."""
        if schema is None:
            return PLAIN
        latest_form, latest_schema, latest = self._latest
        if schema is latest_schema and form == latest_form:
            return latest
        named = (form, canonical_json(schema))
        if named not in self._wordings:
            self._wordings[named] = await put(form, schema, self.instructor_kwargs)
        self._latest = (form, schema, self._wordings[named])
        return self._wordings[named]

    async def ask(self, request: Request, attempt: Callable[[Wording], Awaitable[Reply]]) -> Reply:
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
            raise Transient("format", error.message, status=error.status) from None

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
        attempt: Callable[[Wording], Awaitable[Reply]],
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
                    if isinstance(another, Transient) and another.is_refusal:
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
    return tuple(form for form in LADDER if can[form])


@dataclass
class Memory:
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
