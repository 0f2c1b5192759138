"""What the dataset is made of: stages, coverage, curation, split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nanodistill.config.ranges import Range
from nanodistill.config.settings import InputPath, ObjectRef, Settings, is_named
from nanodistill.config.teaching import TeacherPrice

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
    min_teacher_agreement: Annotated[float | None, Range(0, 1, liftable=False)] = Field(
        default=None, description="Stop before generation if blind agreement is below this share."
    )
    generation: Literal["structured", "chat"] = Field(
        default="structured",
        description="structured asks for several rows a call by schema; chat shows seeds of one "
        "label as earlier turns and takes the next turn as one input, which small models can do.",
    )
    examples_per_call: Annotated[int, Range(1, 50)] = Field(
        default=5, description="Rows asked for in one generation call (chat: always one)."
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
    check_labels: bool = Field(
        default=False, description="Have the teacher confirm the label an input was written for."
    )
    samples_per_input: Annotated[int, Range(1, 32)] = Field(
        default=1,
        description="Traces sampled for each input; the answer is chosen by vote and the "
        "agreement becomes the row's confidence.",
    )
    min_confidence: Annotated[float | None, Range(0, 1, liftable=False)] = Field(
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
    judge_price: TeacherPrice | None = Field(
        default=None,
        description="The judge's USD per million tokens, where LiteLLM knows no price.",
    )
    near_duplicate_threshold: Annotated[float, Range(0, 1, liftable=False)] = Field(
        default=0.8, description="Jaccard similarity from which two inputs count as the same."
    )
    max_rounds: Annotated[int, Range(1, 100)] = Field(
        default=20, description="Most rounds of generation before synthesis takes what it has."
    )
    min_rows: Annotated[int, Range(1)] = Field(
        default=10, description="Fewer new rows than this make no dataset; seeds do not count."
    )
    test: Annotated[str | Path | list[dict[str, Any]] | None, InputPath()] = Field(
        default=None, description="Held-out test rows, in the forms that `seed` takes."
    )
    holdout_seeds: Annotated[int, Range(0)] = Field(
        default=0, description="Seeds set aside as the test split, unseen by prompts and training."
    )
    val_split: Annotated[float, Range(0, 0.5, liftable=False)] = Field(
        default=0.2, description="Share of the kept rows that is the validation split."
    )
    training_data: Annotated[Any, InputPath()] = Field(
        default=None,
        description="Rows of your own (input/thinking/output or messages), curated without a "
        "teacher, in the forms that `seed` takes.",
    )

    @field_validator("thinking_format")
    @classmethod
    def _is_a_format(cls, chosen: str | Any) -> str | Any:
        is_named(chosen, THINKING_FORMATS, "module:Class")
        return chosen
