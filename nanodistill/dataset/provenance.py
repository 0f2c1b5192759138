"""Where a version came from, in a form that may be published.

A version is made to be shared: no key, no local path and no person's address belongs in its
manifest and card. Paths become file names, known secrets are blanked, and of the parameters for
LiteLLM and instructor only those that shape an answer are shown; the others are named.
`config_hash` covers them all (except keys and tokens), so a change in one still shows.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nanodistill import __version__
from nanodistill.config import DataSettings, DistillationConfig, TaskSettings, TeacherSettings
from nanodistill.config.identity import default_of
from nanodistill.config.settings import InputPath, ObjectRef
from nanodistill.dataset.manifest import VersionFacts
from nanodistill.secrets import HIDDEN, Redactor
from nanodistill.types import tagged_hash

# What the rows do not depend on, and what `inputs` describes.
WITHOUT_EFFECT = frozenset(
    {
        "allow_out_of_range",
        "judge_price",
        "max_calls",
        "max_concurrency",
        "max_cost_usd",
        "max_retries",
        "max_tokens_total",
        "name",
        "output_dir",
        "requests_per_minute",
        "student",
        "teacher_price",
        "timeout_seconds",
        "tokens_per_minute",
        "transport",
    }
)
INPUTS = frozenset({"seed", "test", "training_data"})
PARTS = (TaskSettings, TeacherSettings, DataSettings)
PARAMETERS = ("litellm_kwargs", "judge_litellm_kwargs", "instructor_kwargs")
SHOWN_PARAMETERS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "mode",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "seed",
        "stop",
        "temperature",
        "thinking",
        "top_k",
        "top_p",
        "verbosity",
    }
)
NOT_SHOWN = "[not shown]"
LIBRARIES = ("pyarrow", "litellm", "instructor", "mlx-lm")


def public_config(config: DistillationConfig) -> dict[str, Any]:
    """The run's name and the settings that shaped the data, fit to be read by anybody."""
    values = {"name": config.name} | _settings_of_data(config)
    for name in PARAMETERS:
        values[name] = {
            key: value if key in SHOWN_PARAMETERS or value == HIDDEN else NOT_SHOWN
            for key, value in values[name].items()
        }
    return values


def config_hash(config: DistillationConfig) -> str:
    """A hash of the settings that shaped the data: not of inputs, limits, folders or keys."""
    values = config.identity_values(*PARTS, leave_out=WITHOUT_EFFECT | INPUTS)
    shown = {name: _public_value(name, value) for name, value in values.items()}
    return tagged_hash("nanodistill.dataset.config.v1", shown)


def defaults_of_data() -> dict[str, Any]:
    """What a version whose `config` lacks a setting was made with: that setting's default."""
    fields = {name: field for part in PARTS for name, field in part.model_fields.items()}
    return {name: default_of(field) for name, field in fields.items() if not field.is_required()}


def _settings_of_data(config: DistillationConfig) -> dict[str, Any]:
    names = {name for part in PARTS for name in part.model_fields} - WITHOUT_EFFECT - INPUTS
    values = config.to_json()
    return {name: _public_value(name, values[name]) for name in sorted(names)}


def _public_value(name: str, value: Any) -> Any:
    field = DistillationConfig.model_fields.get(name)
    marks = field.metadata if field else []
    may_be_path = any(isinstance(mark, InputPath | ObjectRef) for mark in marks)
    return public_name(value) if may_be_path and isinstance(value, str) else value


def public_name(text: str) -> str:
    """A model's, file's or function's name without the folders of this machine."""
    if text.startswith("mlx/"):
        return "mlx/" + public_name(text.removeprefix("mlx/"))
    if text.startswith("python:"):
        return "python:" + public_name(text.removeprefix("python:"))
    module, colon, name = text.rpartition(":")
    if colon and module.endswith(".py"):
        return f"{Path(module).name}:{name}"
    return Path(text).name if _is_local_path(text) else text


def _is_local_path(text: str) -> bool:
    if not text or "\n" in text or len(text) > 500:
        return False
    path = Path(text)
    return path.is_absolute() or text.startswith(("./", "../", "~")) or path.exists()


def scrubbed(facts: VersionFacts) -> VersionFacts:
    """`facts` without secrets of the environment and without the home folder.

    The instruction, labels and schema stay as they are: they are in every row.
    """
    redact = Redactor.of({})
    home = str(Path.home())

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return redact(value.replace(home, "~") if len(home) > 1 else value)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    told = {"config", "prompts", "policy", "notes", "stopped_because"}
    free = {name: clean(value) for name, value in facts.model_dump(include=told).items()}
    names = {
        name: public_name(value)
        for name in ("teacher", "thinking_format", "response_model")
        if (value := facts.model_dump()[name]) is not None
    }
    return VersionFacts.model_validate(facts.model_dump() | free | names)


def libraries() -> dict[str, str]:
    """Versions of what took part, as far as it is installed."""
    found = {"nanodistill": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
