"""The whole configuration of a run, put together from its parts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import ErrorDetails

from nanodistill.config.advanced import AdvancedConfig
from nanodistill.config.data import DataSettings, PromptTemplates
from nanodistill.config.delivery import DeliverySettings
from nanodistill.config.machine import MachineSettings
from nanodistill.config.settings import Settings
from nanodistill.config.task import TaskSettings
from nanodistill.config.teaching import TeacherSettings
from nanodistill.config.training import TrainingSettings
from nanodistill.errors import ConfigError, Problem
from nanodistill.records import tagged_hash
from nanodistill.redaction import redacted

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

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as invalid:
            problems = [explain(error, type(self)) for error in invalid.errors()]
            raise ConfigError("The configuration does not hold:", problems) from invalid

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = dict(values)
        filled = [
            _renamed(own, {"synthesis_temperature": "temperature"}),
            _bundle(own, "prompt_templates", PromptTemplates, _prompt_fields),
            _bundle(own, "advanced_config", AdvancedConfig, AdvancedConfig.to_fields),
        ]
        for fields in filled:
            for name, value in fields.items():
                own[name] = _under(own[name], value) if name in own else value
        return own

    @property
    def run_folder(self) -> Path:
        """OUTPUT_DIR/NAME."""
        return Path(self.output_dir) / self.name

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

    def hash_of(self, *parts: type[Settings], leave_out: Iterable[str] = ()) -> str:
        """Hash of the fields of `parts`, for telling whether something depends on a change."""
        names = {name for part in parts for name in part.model_fields} - set(leave_out)
        shown = self.to_json()
        return tagged_hash("nanodistill.config.v1", {name: shown[name] for name in sorted(names)})


def plain_value(value: Any) -> Any:
    """`value` as JSON: classes and functions by name, paths as text."""
    if isinstance(value, BaseModel):
        return {key: plain_value(item) for key, item in value.model_dump().items()}
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain_value(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    named = value if isinstance(value, type) or callable(value) else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def explain(error: ErrorDetails, model: type[BaseModel]) -> Problem:
    """A pydantic error in our words, with the nearest name for an unknown key."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return Problem(where, f"unknown key{nearest(where.rsplit('.', 1)[-1], model.model_fields)}")
    if error["type"] == "missing":
        return Problem(where, "is required")
    if error["type"] in BUILT_IN_ERRORS:
        return Problem(where, f"is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}")
    return Problem(where, error["msg"])


BUILT_IN_ERRORS = frozenset(
    [
        "int_type",
        "int_parsing",
        "int_from_float",
        "float_type",
        "float_parsing",
        "bool_type",
        "bool_parsing",
        "string_type",
        "list_type",
        "dict_type",
        "literal_error",
        "model_type",
        "is_subclass_of",
    ]
)


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` where a known name is near, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""


def _renamed(own: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {new: own.pop(old) for old, new in names.items() if old in own}


def _bundle(own: dict[str, Any], key: str, kind: type[Any], spell: Any) -> dict[str, Any]:
    bundle = own.pop(key, None)
    if bundle is None:
        return {}
    fields: dict[str, Any] = spell(bundle if isinstance(bundle, kind) else kind(**bundle))
    return fields


def _prompt_fields(templates: PromptTemplates) -> dict[str, Any]:
    return {
        PROMPT_FIELDS[short]: text
        for short, text in templates.model_dump(exclude_none=True).items()
    }


def _under(chosen: Any, filled: Any) -> Any:
    both = isinstance(chosen, Mapping) and isinstance(filled, Mapping)
    return {**filled, **chosen} if both else chosen
