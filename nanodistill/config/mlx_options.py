"""What `mlx_lm_kwargs` accepts, under whichever name the user knows.

`ALIASES` maps mlx-lm's flags and YAML keys, and the usual names of transformers
and PEFT, to one setting each. An unknown name is an error that suggests the
nearest; a name that another part of a run decides is refused with where to set
it. (mlx-lm itself ignores unknown YAML keys and rejects unknown flags.)

`mlx_lm_kwargs` override the fields: `effective` returns the settings after that,
and `MlxSettings` for what has no field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from nanodistill.config.settings import Range, suggest
from nanodistill.config.wording import in_words

if TYPE_CHECKING:
    from nanodistill.config.training_fields import TrainingSettings


DEFAULT_SCALE = 20.0  # mlx-lm's own default for LoRA layers

# Settings with other names in mlx-lm, transformers and PEFT.
ALIASES: dict[str, tuple[str, ...]] = {
    "batch_size": ("per_device_train_batch_size",),
    "learning_rate": ("lr",),
    "num_train_epochs": ("epochs",),
    "max_seq_length": ("max_length",),
    "lora_rank": ("rank", "r"),
    "lora_layers": ("num_layers",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "target_modules": ("keys",),
    "optimizer": ("optim",),
    "lr_scheduler": ("lr_scheduler_type",),
    "warmup_steps": ("warmup",),
    "max_grad_norm": ("gradient_clip",),
    "gradient_accumulation_steps": ("grad_accumulation_steps",),
    "gradient_checkpointing": ("grad_checkpoint",),
    "seed": ("random_seed",),
    "beta_1": ("adam_beta_1", "adam_beta1"),
    "beta_2": ("adam_beta_2", "adam_beta2"),
    "eps": ("adam_epsilon",),
}
# Settings with one name.
UNALIASED = (
    "long_rows", "fine_tune_type", "train_on", "weight_decay", "eval_steps", "save_steps",
    "logging_steps", "best_by", "early_stopping_patience", "report_to", "scale", "use_dora",
    "iters", "max_steps", "val_batches", "mask_prompt", "clear_cache_threshold", "steps_per_eval",
    "save_every", "steps_per_report", "lr_schedule", "warmup_init", "warmup_ratio", "betas",
    "bias_correction", "momentum", "nesterov", "dampening", "ns_steps", "clip_threshold",
    "decay_rate", "scale_parameter", "relative_step",
)  # fmt: skip
SETTING_OF = {name: name for name in (*ALIASES, *UNALIASED)} | {
    alias: name for name, aliases in ALIASES.items() for alias in aliases
}

REFUSED = {
    "model": "set `student` instead",
    "data": "rows come from the dataset version",
    "hf_dataset": "pass a Hub id to `nanodistill train --dataset`",
    "train": "`nanodistill train` always trains",
    "test": "`nanodistill eval` scores the test rows",
    "test_batches": "`nanodistill eval` scores all test rows",
    "adapter_path": "the adapter is written to the run's folder",
    "adapter_file": "the adapter is written to the run's folder",
    "resume_adapter_file": "a run resumes from its own checkpoint",
    "resume_from_checkpoint": "a run resumes from its own checkpoint",
    "config": "write its settings here instead",
    "project_name": "the run's `name` is used",
    "trust_remote_code": "set it in `tokenizer_kwargs`",
    "packing": "rows are never packed",
}

LORA_PARAMETERS = {
    "rank": "lora_rank",
    "scale": "scale",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "keys": "target_modules",
}
"""The keys of mlx-lm's `lora_parameters` table, and the setting each one is."""

OPTIMIZER_SETTINGS: dict[str, frozenset[str]] = {
    "adam": frozenset({"betas", "eps", "bias_correction"}),
    "adamw": frozenset({"betas", "eps", "bias_correction", "weight_decay"}),
    "sgd": frozenset({"momentum", "weight_decay", "dampening", "nesterov"}),
    "muon": frozenset({"momentum", "weight_decay", "nesterov", "ns_steps"}),
    "adafactor": frozenset(
        {"eps", "clip_threshold", "decay_rate", "beta_1", "weight_decay"}
        | {"scale_parameter", "relative_step", "warmup_init"}
    ),
}
"""What each class of mlx.optimizers accepts besides its learning rate."""

OPTIMIZER_NAMES = {
    "betas", "beta_1", "beta_2", "eps", "bias_correction", "momentum", "nesterov", "dampening",
    "ns_steps", "clip_threshold", "decay_rate", "scale_parameter", "relative_step",
}  # fmt: skip
"""Optimizer settings that may also be written outside `optimizer_config`."""

ADAM_BETAS = (0.9, 0.999)

OURS: dict[str, dict[str, Any]] = {
    # Without bias correction Adam's first step is about 3 times the learning rate.
    "adam": {"bias_correction": True},
    "adamw": {"bias_correction": True},
    # With relative steps Adafactor ignores learning_rate.
    "adafactor": {"relative_step": False},
}
"""Where our defaults differ from those of mlx.optimizers."""


class LearningRateSchedule(BaseModel):
    """mlx-lm's `lr_schedule`: a function of mlx.optimizers and its arguments, in updates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cosine_decay", "linear_schedule", "exponential_decay", "step_decay"]
    arguments: list[float]
    warmup: Annotated[int, Range(0)] = 0
    warmup_init: Annotated[float, Range(0)] = 0.0

    @model_validator(mode="after")
    def _has_its_arguments(self) -> LearningRateSchedule:
        need = {"cosine_decay": (2, 3), "exponential_decay": (2, 2)}.get(self.name, (3, 3))
        if not need[0] <= len(self.arguments) <= need[1]:
            raise PydanticCustomError(
                "schedule_arguments",
                "{name} takes {least} to {most} arguments, got {n}",
                {"name": self.name, "least": need[0], "most": need[1], "n": len(self.arguments)},
            )
        return self


class MlxSettings(BaseModel):
    """Settings of `mlx_lm_kwargs` that have no field in the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Range(0)] | None = None
    scale: Annotated[float, Range(0, exclusive=True)] | None = None
    all_layers: bool = False
    max_steps: Annotated[int, Range(1)] | None = Field(default=None, description="Updates.")
    iters: Annotated[int, Range(1)] | None = Field(default=None, description="Batches.")
    val_batches: Annotated[int, Range(-1)] = -1
    mask_prompt: bool = True
    clear_cache_threshold: Annotated[int, Range(0)] | None = None
    steps_per_eval: Annotated[int, Range(1)] | None = None
    save_every: Annotated[int, Range(1)] | None = None
    steps_per_report: Annotated[int, Range(1)] | None = None
    optimizer_config: dict[str, Any] = Field(default_factory=dict)
    lr_schedule: LearningRateSchedule | None = None
    warmup_init: Annotated[float, Range(0)] | None = None
    warmup_ratio: Annotated[float, Range(0, 1, overridable=False)] | None = None


def effective(settings: TrainingSettings) -> tuple[TrainingSettings, MlxSettings]:
    """`settings` overridden by its `mlx_lm_kwargs`, and the settings that have no field.

    Example:
        >>> settings, overrides = effective(config)
    """
    values, overrides = read_kwargs(
        settings.mlx_lm_kwargs, settings.optimizer, lifted=settings.allow_out_of_range
    )
    return settings.model_copy(update=values | {"mlx_lm_kwargs": {}}), overrides


def read_kwargs(
    kwargs: Mapping[str, Any], optimizer: str, *, lifted: bool
) -> tuple[dict[str, Any], MlxSettings]:
    """Split `mlx_lm_kwargs` into fields of TrainingSettings and everything else.

    Args:
        kwargs: under any name of `ALIASES`.
        optimizer: the one used unless `kwargs` name another.
        lifted: whether the upper bounds of ranges are lifted.

    Raises:
        KwargsError: with every problem found.
    """
    from nanodistill.config.training_fields import TrainingSettings

    reader = _KwargsReader()
    for name, value in kwargs.items():
        reader.add(name, value)
    own = MlxSettings.model_fields.keys()
    fields = reader.values.keys() & (TrainingSettings.model_fields.keys() - own)
    valid = reader.validated(TrainingSettings, fields, lifted=lifted)
    overrides = reader.validated(MlxSettings, own)
    chosen = reader.values.get("optimizer", optimizer)
    reader.problems += _optimizer_problems(chosen, reader.values.get("optimizer_config", {}))
    if reader.problems or overrides is None or valid is None:
        raise KwargsError(kwargs, reader.problems)
    return {name: getattr(valid, name) for name in fields}, overrides


class KwargsError(ValueError):
    """Invalid `mlx_lm_kwargs`: the key of each problem, or "", and what is wrong with it."""

    def __init__(self, kwargs: Mapping[str, Any], messages: Iterable[str]) -> None:
        self.problems = [self._by_key(kwargs, message) for message in messages]
        super().__init__("; ".join(f"{key} {what}".strip() for key, what in self.problems))

    @staticmethod
    def _by_key(kwargs: Mapping[str, Any], message: str) -> tuple[str, str]:
        """The message under the user's own key, where it begins with one."""
        subject, _, what = message.partition(" ")
        if subject.partition(".")[0] not in kwargs:
            return "", message
        return subject, what if what.startswith(("is ", "has ")) else message


M = TypeVar("M", bound=BaseModel)


class _KwargsReader:
    """Collects `mlx_lm_kwargs` under one name per setting, and what is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def add(self, name: str, value: Any) -> None:
        if name in REFUSED:
            self.problems.append(f"{name} is not accepted in mlx_lm_kwargs: {REFUSED[name]}")
        elif name == "lora_parameters":
            for key, item in self._table(name, value).items():
                if key in LORA_PARAMETERS:
                    self._set(LORA_PARAMETERS[key], item, f"{name}.{key}")
                else:
                    self.problems.append(f"{name} has no {key}{suggest(key, LORA_PARAMETERS)}")
        elif name == "optimizer_config":
            self._add_to_optimizer(self._table(name, value))
        elif name not in SETTING_OF:
            known = [*SETTING_OF, *REFUSED, "lora_parameters", "optimizer_config"]
            self.problems.append(
                f"{name} is not a parameter of mlx-lm's training{suggest(name, known)}"
            )
        elif SETTING_OF[name] in OPTIMIZER_NAMES:
            self._add_to_optimizer({SETTING_OF[name]: value})
        else:
            self._set(SETTING_OF[name], value, name)

    def validated(self, model: type[M], names: Iterable[str], *, lifted: bool = False) -> M | None:
        """The values that are fields of `model`, validated by it."""
        own = {name: self.values[name] for name in names if name in self.values}
        try:
            return model.model_validate(own | ({"allow_out_of_range": True} if lifted else {}))
        except ValidationError as invalid:
            for error in invalid.errors():
                field = ".".join(str(part) for part in error["loc"])
                # Messages of our own validators already read "is …, must be …".
                ours = error["msg"].startswith("is ")
                self.problems.append(f"{field} {error['msg'] if ours else in_words(error)}")
            return None

    def _table(self, name: str, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        self.problems.append(f"{name} is {value!r}, should be a table")
        return {}

    def _add_to_optimizer(self, values: Mapping[str, Any]) -> None:
        self.values["optimizer_config"] = self.values.get("optimizer_config", {}) | dict(values)

    def _set(self, name: str, value: Any, key: str) -> None:
        if name == "use_dora":
            if not isinstance(value, bool):
                self.problems.append(f"{key} is {value!r}, should be true or false")
            name, value = "fine_tune_type", "dora" if value else "lora"
        elif name == "lora_layers" and value in (-1, 0):
            name, value = "all_layers", True
        if name in self.values and self.values[name] != value:
            self.problems.append(f"{key} = {value!r} contradicts {name} = {self.values[name]!r}")
        self.values[name] = value


def optimizer_settings(optimizer: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `optimizer_config` for one optimizer, written flat or as mlx-lm's nested tables.

    `beta_1` and `beta_2` become `betas` for the optimizers that have those.
    """
    flat = {name: value for name, value in config.items() if name not in OPTIMIZER_SETTINGS}
    flat |= config.get(optimizer, {})
    if "betas" in OPTIMIZER_SETTINGS[optimizer] and flat.keys() & {"beta_1", "beta_2"}:
        both = flat.pop("betas", ADAM_BETAS)
        own = flat.pop("beta_1", None), flat.pop("beta_2", None)
        if _is_pair(both):
            both = [own if own is not None else usual for own, usual in zip(own, both, strict=True)]
        flat["betas"] = both
    return flat


def _optimizer_problems(optimizer: object, config: Mapping[str, Any]) -> list[str]:
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZER_SETTINGS:
        return []  # the field's own validation reports it
    problems = [
        f"optimizer_config.{name} is {value!r}, should be a table"
        for name, value in config.items()
        if name in OPTIMIZER_SETTINGS and not isinstance(value, Mapping)
    ]
    if problems:
        return problems
    known = OPTIMIZER_SETTINGS[optimizer]
    for name, value in optimizer_settings(optimizer, config).items():
        if name not in known:
            accepts = ", ".join(sorted(known))
            problems.append(
                f"{optimizer} has no {name}{suggest(name, known)}; it accepts {accepts}"
            )
        elif (optimizer, name) in PAIRS:
            if not (_is_pair(value) and all(map(_is_number, value))):
                problems.append(f"{name} is {value!r}, should be two numbers")
        elif name in SWITCHES:
            if not isinstance(value, bool):
                problems.append(f"{name} is {value!r}, should be true or false")
        elif not _is_number(value):
            problems.append(f"{name} is {value!r}, should be a number")
    return problems


PAIRS = {("adam", "betas"), ("adamw", "betas"), ("adafactor", "eps")}
SWITCHES = {"bias_correction", "nesterov", "scale_parameter", "relative_step", "warmup_init"}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
