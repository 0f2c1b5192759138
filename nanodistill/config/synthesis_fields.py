"""Fields of a synthesis: the task, how the teacher is called, what the dataset is made of."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WrapValidator, field_validator
from pydantic_core import PydanticCustomError

from nanodistill.config.access import ADDRESSES, address_problem, header_problem, key_problem
from nanodistill.config.rows import rows_or_path
from nanodistill.config.settings import InputPath, ObjectRef, Range, Settings, is_named, multi_error
from nanodistill.config.wording import shown
from nanodistill.text_files import path_problem

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)
"""What Windows keeps for devices, whatever follows after a dot."""


Rows = list[dict[str, Any]] | str | Path


def reference_to(function: Callable[..., Any]) -> str:
    """`python:module:function` for a function that was given itself.

    A run goes by its teacher's name: what was asked is found again by it.
    """
    name = getattr(function, "__qualname__", "")  # an instance has none
    found: Any = sys.modules.get(function.__module__)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise PydanticCustomError(
            "no_name",
            "is {is}, which no import would find; define a function at the top of a module or cell",
            {"is": shown(function)},
        )
    return f"python:{function.__module__}:{name}"


class TaskSettings(Settings):
    """Name, seed, instruction, models and output of a run."""

    name: str = Field(description="Name of the run and of its folder: 1 to 100 characters.")
    seed: Annotated[Rows, InputPath(), WrapValidator(rows_or_path)] = Field(
        description="Seed examples: a list of input/output rows, a file "
        "(JSONL, JSON, CSV, parquet) or a Hub dataset id."
    )
    instruction: str = Field(
        description="What the student is to do, in at least 10 characters; "
        "it becomes the system message of every row."
    )
    teacher: Annotated[str, InputPath()] = Field(
        default="claude-sonnet-4-5",
        description="Any LiteLLM model id, mlx/MODEL for a local model, "
        "or python:module:function for a callable.",
    )
    student: Annotated[str, InputPath()] = Field(
        default="mlx-community/Llama-3-8B-Instruct-4bit",
        description="Model to train: a Hub id, an MLX folder, a GGUF file or an embedded name.",
    )
    augment_factor: Annotated[int, Range(1, 500)] = Field(
        default=50, description="Rows wanted for each seed: the run keeps seeds x this many."
    )
    output_dir: Annotated[str | Path, InputPath(always=True)] = Field(
        default="./outputs", description="Folder that holds the run's folder."
    )
    response_model: Annotated[type[BaseModel] | str | None, ObjectRef()] = Field(
        default=None,
        description="Pydantic model of the output, or module:Class naming one; "
        "outputs are JSON checked against it.",
    )
    random_seed: Annotated[int, Range(0)] = Field(
        default=0, description="Seed of the plan, the split, the sampling and the training."
    )

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not 1 <= len(name) <= 100:
            raise PydanticCustomError(
                "name_length", "has {n} characters, must have 1 to 100", {"n": len(name)}
            )
        reserved = name.split(".")[0].lower() in RESERVED_NAMES
        if not SAFE_NAME.match(name) or reserved or name.endswith("."):
            raise PydanticCustomError(
                "name_unsafe",
                "{name} is no safe folder name: use letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit and not ending with '.'{reserved}",
                {"name": repr(name), "reserved": "; Windows reserves this one" * reserved},
            )
        return name

    @field_validator("instruction")
    @classmethod
    def _says_something(cls, instruction: str) -> str:
        if len(instruction.strip()) < 10:
            raise PydanticCustomError(
                "instruction_short",
                "has {n} characters, must have at least 10",
                {"n": len(instruction.strip())},
            )
        return instruction

    @field_validator("seed")
    @classmethod
    def _has_rows(
        cls, seed: list[dict[str, Any]] | str | Path
    ) -> list[dict[str, Any]] | str | Path:
        if isinstance(seed, list) and not seed:
            raise PydanticCustomError("seed_empty", "has no rows, must have at least one")
        return seed

    @field_validator("output_dir")
    @classmethod
    def _is_a_folder(cls, output_dir: str | Path) -> str | Path:
        wrong = path_problem(output_dir)
        if wrong is None and os.path.isfile(os.path.expanduser(output_dir)):
            wrong = "is a file, and should be a folder"
        if wrong is not None:
            told = {"is": shown(str(output_dir)), "wrong": wrong}
            raise PydanticCustomError("no_folder", "{is} {wrong}", told)
        return output_dir

    @field_validator("teacher", mode="before")
    @classmethod
    def _function_by_name(cls, teacher: Any) -> Any:
        return reference_to(teacher) if callable(teacher) else teacher

    @field_validator("teacher", "student")
    @classmethod
    def _names_a_model(cls, name: str) -> str:
        if not name.strip():
            raise PydanticCustomError("no_model", "is empty, must name a model")
        return name.strip()


LIMIT_NAMES = ("max_completion_tokens", "max_tokens")
"""What a limit on an answer's tokens is called; a call has one of them at most."""

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

BODY = "extra_body"
"""What goes into a request's body past LiteLLM, over all else that stands there."""
REFUSED_IN_BODY = dict.fromkeys(
    LIMIT_NAMES, "set it in litellm_kwargs itself, where a cut answer gets more room"
) | {"stream_options": "answers are journaled whole"}

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


def wrong_parameters(
    kwargs: Mapping[str, Any], refused: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Each parameter that has a setting of its own or another type than it takes, and why."""
    return [
        (name, what)
        for name, value in kwargs.items()
        if (what := f"can't be set here: {refused[name]}" if name in refused else None)
        or (what := wrong_form(name, value))
    ]


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


class TeacherPrice(BaseModel):
    """USD per million tokens, for a model that LiteLLM's table does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Annotated[float, Range(0)]
    output: Annotated[float, Range(0)]


class TeacherSettings(Settings):
    """How every teacher call of the run is made and what it may cost."""

    temperature: Annotated[float, Range(0, 2, overridable=False)] = Field(
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
    timeout_seconds: Annotated[float, Range(0, exclusive=True)] = Field(
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
    max_cost_usd: Annotated[float | None, Range(0, exclusive=True)] = Field(
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

    @field_validator("litellm_kwargs", "judge_litellm_kwargs", check_fields=False)
    @classmethod
    def _keeps_our_promises(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        own = {name: _without_ends(name, value) for name, value in kwargs.items()}
        each = wrong_parameters(own, REFUSED_LITELLM_KWARGS)
        body = own.get(BODY)
        if isinstance(body, Mapping):
            told = wrong_parameters(body, REFUSED_LITELLM_KWARGS | REFUSED_IN_BODY)
            each += [(f"{BODY}.{name}", what) for name, what in told]
        if what := wrong_key(own):
            each.append(("api_key", what))
        if each:
            raise multi_error("litellm_refused", sorted(each))
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


DIFFICULTIES = {"plain": 65.0, "middling": 20.0, "boundary": 15.0}
"""With a third of boundary rows, plain core cases become rare, and students are worse on them."""
THINKING_FORMATS = ("xml", "markdown", "json", "plain", "none")


class PromptTemplates(BaseModel):
    """System prompts to use in place of ours. None keeps ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cot_system: str | None = None
    policy_extraction_system: str | None = None
    synthetic_generation_system: str | None = None


class DataSettings(Settings):
    """How teacher answers become a dataset version."""

    thinking_format: Annotated[str | Any, ObjectRef()] = Field(
        default="xml",
        description="How thinking and output stand in one text: xml, markdown, json, plain, "
        "none, or module:Class with `format` and `parse`.",
    )
    custom_cot_system_prompt: Annotated[str | None, InputPath()] = Field(
        default=None, description="System prompt of trace calls, as text or a path."
    )
    custom_policy_extraction_prompt: Annotated[str | None, InputPath()] = Field(
        default=None, description="System prompt of the policy call, as text or a path."
    )
    custom_synthetic_generation_prompt: Annotated[str | None, InputPath()] = Field(
        default=None,
        description="System prompt of generation calls, as text or a path; in chat generation, "
        "where it has {label}, what each turn asks for.",
    )
    response_parser: Annotated[str | Any | None, ObjectRef()] = Field(
        default=None,
        description="module:Class with `parse_synthetic_examples`, tried before our strategies.",
    )
    extract_policy: bool = Field(
        default=True,
        description="Ask the teacher once to describe the task; without it the policy "
        "comes from the instruction and the seeds alone.",
    )
    policy_dimensions: dict[str, str] = Field(
        default_factory=dict,
        description="Further dimensions of the policy: name and what it should say.",
    )
    check_seeds: bool = Field(
        default=True,
        description="Let the teacher answer the seeds blind first, and report its agreement.",
    )
    min_teacher_agreement: Annotated[float | None, Range(0, 1, overridable=False)] = Field(
        default=None, description="Stop before generation if blind agreement is below this share."
    )
    generation: Literal["structured", "chat"] = Field(
        default="structured",
        description="structured asks for several rows a call by schema; chat shows seeds of one "
        "label as earlier turns and takes the next turn as one input, which small models can do.",
    )
    examples_per_call: Annotated[int | None, Range(1, 50)] = Field(
        default=None,
        description="Rows asked for in one generation call (chat: always one). Unset: 10, fewer "
        "where the seeds are long, so that a call writes about 1,500 words at most.",
    )
    few_shot: Annotated[int, Range(0, 20)] = Field(
        default=3, description="Seeds shown in each generation call, in rotation."
    )
    labels: list[str] | dict[str, str] | None = Field(
        default=None,
        description="The closed set of outputs, as a list, or as a table that says in a few words "
        "what each means, which is told to the teacher when it writes for a label. Unset, it is "
        "found in the seeds where they repeat few short outputs; an empty list says that outputs "
        "are open.",
    )
    axes: dict[str, list[str] | dict[str, float]] = Field(
        default_factory=dict,
        description="Axes of the coverage plan by name, as values or as values with weights; "
        "they take the place of those found by the policy.",
    )
    coverage: bool = Field(
        default=True,
        description="Spread generation over the cells of the plan; without it every call is "
        "alike, and labels too are the teacher's choice.",
    )
    difficulty_mix: dict[str, Annotated[float, Range(0, overridable=False)]] = Field(
        default_factory=DIFFICULTIES.copy,
        description="Shares of plain cases, of cases that take a second look, and of cases close "
        "to another answer that a rule decides; structured generation only.",
    )
    decision_rules: list[str] = Field(
        default_factory=list,
        description="Rules that decide close cases, one sentence each; prompts quote them word "
        "for word, and they settle what the policy leaves open.",
    )
    check_labels: bool = Field(
        default=False,
        description="Have the teacher confirm the label an input was written for: recheck = "
        '"all", for labels.',
    )
    recheck: Literal["boundary", "all", "none"] = Field(
        default="boundary",
        description="Which generated rows the teacher answers a second time, blind: boundary "
        "takes those that are not plain. Rows whose answers differ are dropped.",
    )
    recheck_disagreement: Literal["drop", "majority"] = Field(
        default="drop",
        description="What becomes of a row whose two answers differ: drop it, or ask a third time "
        "and keep the answer that two agree on.",
    )
    samples_per_input: Annotated[int, Range(1, 32)] = Field(
        default=1,
        description="Traces sampled for each input; the answer is chosen by vote and the "
        "agreement becomes the row's confidence.",
    )
    min_confidence: Annotated[float | None, Range(0, 1, overridable=False)] = Field(
        default=None, description="Reject rows whose agreement is below this share."
    )
    verifier: Annotated[str | Callable[[str, str], Any] | None, ObjectRef()] = Field(
        default=None,
        description="module:function of input and output that returns true, false or a reason.",
    )
    judge: str | None = Field(
        default=None, description="LiteLLM model that judges each row by judge_rubric."
    )
    judge_rubric: Annotated[str | None, InputPath()] = Field(
        default=None, description="What the judge is to look for, as text or a path."
    )
    judge_litellm_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="LiteLLM parameters of the judge's calls, over those of litellm_kwargs. The "
        "address and key in litellm_kwargs are the judge's too if its provider is the teacher's.",
    )
    judge_price: TeacherPrice | None = Field(
        default=None,
        description="The judge's USD per million tokens, where LiteLLM knows no price.",
    )
    near_duplicate_threshold: Annotated[float, Range(0, 1, overridable=False)] = Field(
        default=0.8, description="Jaccard similarity from which two inputs count as the same."
    )
    max_rounds: Annotated[int, Range(1, 100)] = Field(
        default=20, description="Most rounds of generation before synthesis takes what it has."
    )
    min_rows: Annotated[int, Range(1)] = Field(
        default=10, description="Fewer new rows than this make no dataset; seeds do not count."
    )
    test: Annotated[Rows | None, InputPath(), WrapValidator(rows_or_path)] = Field(
        default=None, description="Held-out test rows, in the forms that `seed` takes."
    )
    holdout_seeds: Annotated[int, Range(0)] = Field(
        default=0, description="Seeds set aside as the test split, unseen by prompts and training."
    )
    val_split: Annotated[float, Range(0, 0.5, overridable=False)] = Field(
        default=0.2, description="Share of the kept rows that is the validation split."
    )
    training_data: Annotated[Rows | None, InputPath(), WrapValidator(rows_or_path)] = Field(
        default=None,
        description="Rows of your own (input/thinking/output or messages), curated without a "
        "teacher, in the forms that `seed` takes.",
    )

    @field_validator("difficulty_mix")
    @classmethod
    def _has_a_share(cls, mix: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(mix.keys() - set(DIFFICULTIES)):
            raise PydanticCustomError(
                "unknown_difficulty",
                "has {unknown}; the difficulties are {known}",
                {"unknown": ", ".join(unknown), "known": ", ".join(DIFFICULTIES)},
            )
        if not sum(mix.values()) > 0:
            raise PydanticCustomError("no_share", "has no share over 0")
        return {name: share for name, share in mix.items() if share}

    @field_validator("thinking_format")
    @classmethod
    def _is_a_format(cls, chosen: str | Any) -> str | Any:
        is_named(chosen, THINKING_FORMATS, "module:Class")
        return chosen
