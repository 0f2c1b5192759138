"""How a schema is put to a teacher: natively, as a tool, in JSON mode, or in words.

    json_schema   response_format with the schema, strict where the schema allows it
    tools         one tool that has to be called, whose parameters are the schema
    json          JSON mode, with the schema in the system prompt
    text          the schema in the system prompt alone

`auto` starts with what the model can do, as far as LiteLLM knows. A provider that refuses the
form with a 400, or whose first answers are no JSON of the schema's shape, is stepped down, once
for the run, and the form that worked is remembered with the run. A form that the user chose is
not left: a refusal then stops the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nanodistill import jsontext
from nanodistill.errors import CallError
from nanodistill.records import Request, canonical_json
from nanodistill.teacher.faults import Faults
from nanodistill.teacher.libraries import load_litellm
from nanodistill.teacher.provider import Reply
from nanodistill.teacher.resolving import Resolved
from nanodistill.teacher.wording import PLAIN, Form, Wording, put

LADDER: tuple[Form, ...] = get_args(Form)
ANSWERS_TO_WATCH = 3


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

        A provider that refuses the form bills nothing for saying so; the attempt is then made
        in the next form.
        """
        schema = request.schema
        while True:
            form = self.form
            wording = await self.wording(form, schema)
            try:
                reply = await attempt(wording)
            except CallError as error:
                if error.kind != "format":
                    raise
                self._refused(form, schema, error)
            else:
                if schema is not None:
                    self._watch(form, schema, reply.completion.text)
                return reply

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

    def _watch(self, form: Form, schema: Mapping[str, Any], text: str) -> None:
        """Look at the first answers for a provider that ignores the form."""
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


def has_shape(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text holds JSON with what the schema requires at its top."""
    held = jsontext.find_container(text)
    if schema.get("type") != "object":
        return held is not None
    return isinstance(held, dict) and set(schema.get("required", ())) <= set(held)
