"""How the teacher is called: sampling, limits, budget, structured output."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nanodistill.config.ranges import Range
from nanodistill.config.settings import Settings, several

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
        if refused:
            each = [(key, f"can't be set here: {REFUSED_LITELLM_KWARGS[key]}") for key in refused]
            raise several("litellm_refused", sorted(each))
        return kwargs

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


def _without_limits(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in LIMIT_NAMES}
