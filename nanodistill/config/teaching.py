"""How the teacher is called: sampling, limits, budget, structured output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nanodistill.config.access import ADDRESSES, address_problem, header_problem, key_problem
from nanodistill.config.ranges import Range
from nanodistill.config.settings import Settings, several
from nanodistill.config.wording import shown

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

NUMBERS = "a number"
WHOLE = "a whole number"
SWITCH = "true or false"
TEXT = "text"
TABLE = "a table"
TEXTS = "a list of texts"
TAKES: dict[str, tuple[str, ...]] = {
    "temperature top_p frequency_penalty presence_penalty min_p top_a typical_p tfs_z "
    "repeat_penalty repetition_penalty length_penalty mirostat_eta mirostat_tau "
    "timeout request_timeout stream_timeout": (NUMBERS,),
    "seed max_tokens max_completion_tokens top_k top_logprobs num_ctx num_predict best_of "
    "min_tokens mirostat": (WHOLE,),
    "drop_params logprobs parallel_tool_calls ignore_eos skip_special_tokens use_beam_search "
    "store": (SWITCH,),
    "api_base base_url api_key api_version custom_llm_provider organization user service_tier": (
        TEXT,
    ),
    "extra_headers headers default_headers extra_body logit_bias metadata chat_template_kwargs": (
        TABLE,
    ),
    "allowed_openai_params additional_drop_params": (TEXTS,),
    "stop": (TEXT, TEXTS),
    "reasoning_effort": (TEXT, TABLE),
}
"""What the usual parameters take. Others are the provider's own, and what they take is its."""

FORMS = {name: forms for names, forms in TAKES.items() for name in names.split()}
LEAST = {
    "max_tokens": 1, "max_completion_tokens": 1, "temperature": 0, "top_p": 0, "num_ctx": 1,
}  # fmt: skip
HEADERS = ("extra_headers", "headers", "default_headers")
POSITIVE = ("timeout", "request_timeout", "stream_timeout")


def wrong_form(name: str, value: object) -> str | None:
    """Why a LiteLLM parameter can't be what it is set to; None for one that we do not know."""
    forms = FORMS.get(name)
    if forms is None or value is None:
        return None
    if not any(_has_form(value, form) for form in forms):
        quoted = "; leave the quotation marks out" if _is_number_as_text(value, forms) else ""
        return f"is {shown(value)}, must be {' or '.join(forms)}{quoted}"
    if name in LEAST and value < LEAST[name]:  # type: ignore[operator]
        return f"is {shown(value)}, must be {LEAST[name]} or more"
    if name in POSITIVE and value <= 0:  # type: ignore[operator]
        return f"is {shown(value)}, must be over 0 seconds"
    if name in ADDRESSES:
        return address_problem(str(value))
    if name in HEADERS and isinstance(value, Mapping):
        wrong = {key: what for key, held in value.items() if (what := header_problem(held))}
        return "; ".join(f"{key} {what}" for key, what in wrong.items()) or None
    if name == "organization":
        return header_problem(value)
    return None


def wrong_key(kwargs: Mapping[str, Any]) -> str | None:
    """Why `api_key` can't be one; a placeholder may stand before a server of one's own."""
    key = kwargs.get("api_key")
    own_server = any(kwargs.get(name) for name in ADDRESSES)
    return key_problem(key, placeholders=not own_server) if isinstance(key, str) else None


def _has_form(value: object, form: str) -> bool:
    if form == TABLE:
        return isinstance(value, Mapping)
    if form == TEXTS:
        return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
    if form in (TEXT, SWITCH):
        return isinstance(value, str if form == TEXT else bool)
    number = int if form == WHOLE else (int, float)
    return isinstance(value, number) and not isinstance(value, bool)


def _is_number_as_text(value: object, forms: tuple[str, ...]) -> bool:
    words = {"true", "false"} if SWITCH in forms else set()
    digits = isinstance(value, str) and value.strip().replace(".", "", 1).lstrip("-").isdecimal()
    numbers = digits and bool({NUMBERS, WHOLE} & set(forms))
    return numbers or (isinstance(value, str) and value.strip().lower() in words)


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
        own = {name: _without_ends(name, value) for name, value in kwargs.items()}
        refused = own.keys() & REFUSED_LITELLM_KWARGS.keys()
        each = [(key, f"can't be set here: {REFUSED_LITELLM_KWARGS[key]}") for key in refused]
        for name, value in own.items():
            if name not in refused and (what := wrong_form(name, value)):
                each.append((name, what))
        if what := wrong_key(own):
            each.append(("api_key", what))
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


def _without_ends(name: str, value: Any) -> Any:
    """A key or an address as it was meant: files and clipboards put a line break behind it."""
    return value.strip() if name in (*ADDRESSES, "api_key") and isinstance(value, str) else value


def _without_limits(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in LIMIT_NAMES}
