"""The whole configuration of a run, put together from its parts, and `AdvancedConfig`.

`AdvancedConfig` is a bundle of expert settings for the same fields. Only what the user set in it is
passed on, so an `AdvancedConfig()` changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from nanodistill.config.identity import identity_values
from nanodistill.config.identity import plain_value as plain_value
from nanodistill.config.mlx_config import cli_args, mlx_lm_config, yaml_text
from nanodistill.config.mlx_options import effective
from nanodistill.config.reference import members, type_text
from nanodistill.config.settings import PROBLEMS, Range, Settings
from nanodistill.config.settings import suggest as suggest
from nanodistill.config.synthesis_fields import (
    DataSettings,
    PromptTemplates,
    TaskSettings,
    TeacherSettings,
)
from nanodistill.config.training_fields import (
    DeliverySettings,
    MachineSettings,
    TrainingSettings,
    out_of_order,
)
from nanodistill.config.wording import in_words, shown, unusable
from nanodistill.errors import ConfigError, Problem
from nanodistill.run_dir import write_atomic
from nanodistill.secrets import redacted
from nanodistill.text_files import expanded
from nanodistill.types import tagged_hash

SAMPLING = ("top_p", "top_k", "frequency_penalty", "presence_penalty")
ALL = -1
FIELD_OF = {
    "gradient_clip": ("max_grad_norm",),
    "warmup_steps": ("warmup_steps",),
    "lr_scheduler": ("lr_scheduler",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "target_modules": ("target_modules",),
    "memory_limit_gb": ("max_memory_gb", "memory_hard_limit_gb"),
    "cpu_limit_percent": ("cpu_capacity_percent",),
}


class AdvancedConfig(BaseModel):
    """Expert settings by the names of the configuration analysis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_p: Annotated[float, Range(0, 1, overridable=False)] | None = None
    top_k: Annotated[int, Range(-1)] | None = None
    """How many of the likeliest tokens are sampled from; -1, all of them, is not sent."""
    frequency_penalty: Annotated[float, Range(-2, 2, overridable=False)] | None = None
    presence_penalty: Annotated[float, Range(-2, 2, overridable=False)] | None = None
    gradient_clip: float | None = None
    warmup_steps: int | None = None
    lr_scheduler: Literal["constant", "linear", "cosine"] | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    target_modules: list[str] | None = None
    memory_limit_gb: int | None = None
    cpu_limit_percent: float | None = None

    def to_fields(self) -> dict[str, Any]:
        """The set values under the names of DistillationConfig's fields."""
        chosen = self.model_dump(include=self.model_fields_set, exclude_none=True)
        sampling = {key: chosen[key] for key in SAMPLING if key in chosen}
        if sampling.get("top_k") == ALL:
            del sampling["top_k"]
        fields = {
            field: value
            for key, value in chosen.items()
            if key not in SAMPLING
            for field in FIELD_OF[key]
        }
        return fields | ({"litellm_kwargs": sampling} if sampling else {})


PROMPT_FIELDS = {
    "cot_system": "custom_cot_system_prompt",
    "policy_extraction_system": "custom_policy_extraction_prompt",
    "synthetic_generation_system": "custom_synthetic_generation_prompt",
}


class DistillationConfig(
    DeliverySettings,
    MachineSettings,
    TrainingSettings,
    DataSettings,
    TeacherSettings,
    TaskSettings,
):
    """Everything that a run can be told, checked and frozen.

    Takes `synthesis_temperature` for `temperature`, an `AdvancedConfig` as
    `advanced_config` and a `PromptTemplates` as `prompt_templates`; a field
    given by its own name takes precedence over one of those.

    Raises:
        ConfigError: with all problems at once.
    """

    def __init__(self, /, **values: Any) -> None:
        own, problems = expand_aliases(values)
        problems += _unusable(own)
        try:
            super().__init__(**own)
        except ValidationError as invalid:
            told = {problem.where for problem in problems}
            problems += [p for p in explain_all(invalid, type(self)) if p.where not in told]
            problems += [wrong] if (wrong := _out_of_order(own, problems)) else []
        if not problems and os.path.isfile(self.run_folder):
            problems.append(Problem("name", f"the run's folder {self.run_folder} is a file"))
        if problems:
            raise ConfigError("The configuration does not hold:", problems)

    @property
    def run_folder(self) -> Path:
        """OUTPUT_DIR/NAME."""
        return expanded(self.output_dir) / self.name

    @property
    def prompt_templates(self) -> PromptTemplates:
        """The custom prompts as one object."""
        return PromptTemplates(
            **{short: getattr(self, field) for short, field in PROMPT_FIELDS.items()}
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; keys and tokens redacted."""
        plain = {name: plain_value(getattr(self, name)) for name in type(self).model_fields}
        shown: dict[str, Any] = redacted(plain)
        return shown

    def get_mlx_lm_kwargs(self) -> dict[str, Any]:
        """The training settings in mlx-lm's own names, as far as they are known before the data.

        `mlx_lm_kwargs` over the fields, as the trainer takes them. What depends on the
        number of rows (`iters`, a decaying schedule) is in the YAML file beside a run.
        """
        return mlx_lm_config(*effective(self), self.random_seed)

    def get_mlx_lm_cli_args(self, config_file: str | Path | None = None) -> list[str]:
        """The flags of `mlx_lm lora` for these settings.

        What it takes only from a YAML file (`lora_parameters`, `lr_schedule`,
        `optimizer_config`) is written to `config_file`, where one is given, and that file
        is named first, as `-c` wants it.
        """
        config = self.get_mlx_lm_kwargs()
        if config_file is None:
            return cli_args(config)
        write_atomic(Path(config_file), yaml_text(config).encode())
        return ["--config", str(config_file), *cli_args(config)]

    def hash_of(self, *parts: type[Settings], leave_out: Iterable[str] = ()) -> str:
        """Hash of what is set in `parts`, for telling whether something depends on a change."""
        return tagged_hash(
            "nanodistill.config.v1", self.identity_values(*parts, leave_out=leave_out)
        )

    def identity_values(
        self, *parts: type[Settings], leave_out: Iterable[str] = ()
    ) -> dict[str, Any]:
        """What hashes of `parts` cover (see identity.py); keys and tokens redacted."""
        shown: dict[str, Any] = redacted(identity_values(self, *parts, leave_out=leave_out))
        return shown


def expand_aliases(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """`values` with other names and bundles as fields, and what is wrong with the bundles."""
    own = dict(values)
    problems: list[Problem] = []
    filled = {"temperature": own.pop("synthesis_temperature")} if RENAMED & own.keys() else {}
    for key, (kind, spell) in BUNDLES.items():
        try:
            filled |= spell(kind.model_validate(own.pop(key, {})))
        except ValidationError as invalid:
            problems += explain_all(invalid, kind, key)
    names = [*own, *(name for name in filled if name not in own)]
    return {name: _merge(own, filled, name) for name in names}, problems


def _merge(own: Mapping[str, Any], filled: Mapping[str, Any], name: str) -> Any:
    """A field's own value; over the filled one, key by key, where both are tables."""
    if name not in own:
        return filled[name]
    both = [filled.get(name), own[name]]
    return {**both[0], **both[1]} if all(isinstance(v, Mapping) for v in both) else own[name]


def _prompt_fields(templates: PromptTemplates) -> dict[str, Any]:
    chosen = templates.model_dump(exclude_none=True)
    return {PROMPT_FIELDS[short]: text for short, text in chosen.items()}


RENAMED = {"synthesis_temperature"}
BUNDLES: dict[str, tuple[type[BaseModel], Callable[[Any], dict[str, Any]]]] = {
    "prompt_templates": (PromptTemplates, _prompt_fields),
    "advanced_config": (AdvancedConfig, AdvancedConfig.to_fields),
}


def explain_all(invalid: ValidationError, model: type[BaseModel], *above: str) -> list[Problem]:
    """Each problem of a pydantic error in our words, `above` being where the model stands."""
    errors = [*_of_one_form(invalid.errors(), model)]
    return [problem for error in errors for problem in explain(error, model, *above)]


def explain(error: ErrorDetails, model: type[BaseModel], *above: str) -> list[Problem]:
    """The problems of a pydantic error: one, or as many as a table says that it has."""
    where = ".".join(str(part) for part in (*above, *error["loc"]))
    if PROBLEMS in error.get("ctx", {}):
        told: list[tuple[str, str]] = error["ctx"][PROBLEMS]
        return [Problem(".".join(filter(None, (where, key))), what) for key, what in told]
    if error["type"] == "extra_forbidden":
        near = suggest(where.rsplit(".", 1)[-1], model.model_fields)
        return [Problem(where, f"unknown key{near}")]
    return [Problem(where, in_words(error))]


def _of_one_form(errors: Iterable[ErrorDetails], model: type[BaseModel]) -> Iterator[ErrorDetails]:
    """The errors, but of a field that takes several forms (a list or a path) those of the form
    that was meant; where none was, one that names them all."""
    for place, group in groupby(errors, lambda error: _field_of(error, model)):
        tried = list(group)
        if place is None:
            yield from tried
            continue
        inside = [error for error in tried if len(error["loc"]) > len(place) + 1]
        for error in inside:
            loc = (*place, *error["loc"][len(place) + 1 :])
            yield {**error, "loc": loc}
        if not inside:
            wanted = type_text(_forms_at(model, place))
            told = f"is {shown(tried[0]['input'])}, must be {wanted}"
            yield {**tried[0], "loc": place, "type": "no_such_form", "msg": told}


def _field_of(error: ErrorDetails, model: type[BaseModel]) -> tuple[int | str, ...] | None:
    """Where the value stands of which pydantic tried several forms; None where there is one."""
    for length in (1, 2):
        place = error["loc"][:length]
        if len(error["loc"]) > length and _forms_at(model, place) is not None:
            return place
    return None


def _forms_at(model: type[BaseModel], place: tuple[int | str, ...]) -> Any:
    """The annotation of a field, or of the values of its table, where it has several forms."""
    field = model.model_fields.get(str(place[0]))
    annotation = field.annotation if field else None
    if len(place) == 2:
        annotation = get_args(annotation)[1] if get_origin(annotation) is dict else None
    return annotation if len(members(annotation)) > 1 else None


def _unusable(own: Mapping[str, Any]) -> list[Problem]:
    """See `wording.unusable`. Rows that stand in the configuration are checked with all rows."""
    return [
        problem
        for name, value in own.items()
        if name not in ROWS or isinstance(value, str)
        for problem in unusable(value, name)
    ]


ROWS = frozenset({"seed", "test", "training_data"})


def _out_of_order(own: Mapping[str, Any], found: Sequence[Problem]) -> Problem | None:
    """What is wrong with two memory limits, which are compared only where all else holds."""
    told = any(problem.where in MEMORY_LIMITS for problem in found)
    if told or not own.keys() >= MEMORY_LIMITS:
        return None
    soft, hard = int(own["max_memory_gb"]), int(own["memory_hard_limit_gb"])
    return Problem("memory_hard_limit_gb", out_of_order(soft, hard)) if hard < soft else None


MEMORY_LIMITS = {"max_memory_gb", "memory_hard_limit_gb"}
