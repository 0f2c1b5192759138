"""The names of mlx-lm's training parameters, ours, and those that users bring from elsewhere.

What `mlx_lm_kwargs` may hold, and what the training settings are called in mlx-lm.

Users bring names from everywhere: our own fields, mlx-lm's flags and YAML keys,
and what PEFT, TRL and unsloth taught them. Tables in mlx_names.py map each to one
setting; a name that they lack is an error with the nearest name, one that another part of
a run decides is refused with where to set it. mlx-lm itself would take an
unknown YAML key in silence and an unknown flag not at all.

What `mlx_lm_kwargs` says overrides the fields. `effective` gives the settings
with that done, and `MlxSettings` for what has no field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from nanodistill.config.settings import Range, suggest
from nanodistill.config.wording import in_words

if TYPE_CHECKING:
    from nanodistill.config.training_fields import TrainingSettings


DEFAULT_SCALE = 20.0
"""mlx-lm's own scaling of LoRA layers."""

ALIASES = {
    "batch_size": ("per_device_train_batch_size", "train_batch_size", "micro_batch_size"),
    "learning_rate": ("lr",),
    "num_train_epochs": ("epochs", "num_epochs"),
    "max_seq_length": ("max_seq_len", "max_length", "cutoff_len"),
    "long_rows": (),
    "lora_rank": ("rank", "r", "lora_r"),
    "lora_layers": ("num_layers",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "target_modules": ("keys", "lora_target_modules"),
    "fine_tune_type": ("train_type",),
    "train_on": (),
    "optimizer": ("optim",),
    "weight_decay": (),
    "lr_scheduler": ("lr_scheduler_type",),
    "warmup_steps": ("warmup", "num_warmup_steps"),
    "max_grad_norm": ("gradient_clip", "grad_clip", "clip_grad_norm", "max_norm"),
    "gradient_accumulation_steps": ("grad_accumulation_steps", "grad_accum_steps"),
    "gradient_checkpointing": ("grad_checkpoint", "use_gradient_checkpointing"),
    "eval_steps": (),
    "save_steps": (),
    "logging_steps": (),
    "best_by": (),
    "early_stopping_patience": ("patience",),
    "report_to": (),
    "seed": ("random_seed",),
    "scale": ("lora_scale",),
    "use_dora": (),
    "iters": (),
    "max_steps": (),
    "val_batches": (),
    "mask_prompt": ("train_on_completions_only", "completion_only_loss"),
    "clear_cache_threshold": (),
    "steps_per_eval": (),
    "save_every": (),
    "steps_per_report": (),
    "lr_schedule": (),
    "warmup_init": (),
    "warmup_ratio": (),
    "betas": ("adam_betas",),
    "beta_1": ("adam_beta_1", "adam_beta1", "beta1"),
    "beta_2": ("adam_beta_2", "adam_beta2", "beta2"),
    "eps": ("adam_epsilon", "adam_eps", "epsilon"),
    "bias_correction": (),
    "momentum": (),
    "nesterov": (),
    "dampening": (),
    "ns_steps": (),
    "clip_threshold": (),
    "decay_rate": (),
    "scale_parameter": (),
    "relative_step": (),
}
SETTING_OF = {other: name for name, others in ALIASES.items() for other in (name, *others)}

REFUSED = {
    "model": "`student` names the model",
    "data": "the rows come from the dataset version",
    "hf_dataset": "`nanodistill train --dataset` takes a Hub id",
    "train": "`nanodistill train` always trains",
    "test": "`nanodistill eval` scores the test rows",
    "test_batches": "`nanodistill eval` scores all test rows",
    "adapter_path": "the adapter lies in the run's folder",
    "adapter_file": "the adapter lies in the run's folder",
    "resume_adapter_file": "a run goes on from its own checkpoint by itself",
    "resume_from_checkpoint": "a run goes on from its own checkpoint by itself",
    "config": "put its settings here",
    "project_name": "the run's `name` is it",
    "trust_remote_code": "`tokenizer_kwargs` passes it to the tokenizer",
    "packing": "rows are never packed together",
}

LORA_PARAMETERS = {
    "rank": "lora_rank",
    "scale": "scale",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "keys": "target_modules",
}
"""mlx-lm's table of that name, and the settings that it holds."""

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
"""What each optimizer of mlx.optimizers takes besides its learning rate."""

OPTIMIZER_NAMES = {
    "betas", "beta_1", "beta_2", "eps", "bias_correction", "momentum", "nesterov", "dampening",
    "ns_steps", "clip_threshold", "decay_rate", "scale_parameter", "relative_step",
}  # fmt: skip
"""Settings of an optimizer that may stand outside of `optimizer_config`."""

ADAM_BETAS = (0.9, 0.999)

OURS: dict[str, dict[str, Any]] = {
    # Without the correction the first step is 3 times as large as asked for.
    "adam": {"bias_correction": True},
    "adamw": {"bias_correction": True},
    # A relative step would ignore learning_rate.
    "adafactor": {"relative_step": False},
}
"""Where we depart from the defaults of mlx.optimizers."""


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
                "{name} takes {least} to {most} arguments, {n} are given",
                {"name": self.name, "least": need[0], "most": need[1], "n": len(self.arguments)},
            )
        return self


class MlxSettings(BaseModel):
    """What `mlx_lm_kwargs` can say that no field of the configuration says."""

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
    """`settings` with its `mlx_lm_kwargs` laid over it, and what they say beyond the fields."""
    laid, beyond = read_kwargs(
        settings.mlx_lm_kwargs, settings.optimizer, lifted=settings.allow_out_of_range
    )
    return settings.model_copy(update=laid | {"mlx_lm_kwargs": {}}), beyond


def read_kwargs(
    kwargs: Mapping[str, Any], optimizer: str, *, lifted: bool
) -> tuple[dict[str, Any], MlxSettings]:
    """`mlx_lm_kwargs` as fields of TrainingSettings, and what they say beyond those.

    Args:
        optimizer: the one in use unless `kwargs` name another.
        lifted: whether the upper bounds of ranges are lifted.

    Raises:
        WrongKwargs: with everything that does not hold.
    """
    read = _Reading()
    for name, value in kwargs.items():
        read.take(name, value)
    model = _training_settings()
    fields = read.values.keys() & (model.model_fields.keys() - MlxSettings.model_fields.keys())
    valid = read.checked(model, fields, lifted=lifted)
    beyond = read.checked(MlxSettings, MlxSettings.model_fields.keys())
    chosen = read.values.get("optimizer", optimizer)
    read.problems += _optimizer_problems(chosen, read.values.get("optimizer_config", {}))
    if read.problems or beyond is None or valid is None:
        raise WrongKwargs(kwargs, read.problems)
    return {name: getattr(valid, name) for name in fields}, beyond


class WrongKwargs(ValueError):
    """`mlx_lm_kwargs` that do not hold: the key of each problem, or "", and what is wrong."""

    def __init__(self, kwargs: Mapping[str, Any], said: Iterable[str]) -> None:
        self.problems = [self._placed(kwargs, text) for text in said]
        super().__init__("; ".join(f"{key} {what}".strip() for key, what in self.problems))

    @staticmethod
    def _placed(kwargs: Mapping[str, Any], text: str) -> tuple[str, str]:
        """The text under the user's own key, where it begins with one."""
        subject, _, what = text.partition(" ")
        if subject.partition(".")[0] not in kwargs:
            return "", text
        return subject, what if what.startswith(("is ", "has ")) else text


M = TypeVar("M", bound=BaseModel)


class _Reading:
    """`mlx_lm_kwargs` under one name for each setting, and what is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def take(self, name: str, value: Any) -> None:
        if name in REFUSED:
            self.problems.append(f"{name} is not for mlx_lm_kwargs: {REFUSED[name]}")
        elif name == "lora_parameters":
            self._open(name, value, LORA_PARAMETERS)
        elif name == "optimizer_config":
            self._merge(value)
        elif name not in SETTING_OF:
            known = [*SETTING_OF, *REFUSED, "lora_parameters", "optimizer_config"]
            self.problems.append(
                f"{name} is no parameter of mlx-lm's training{suggest(name, known)}"
            )
        elif SETTING_OF[name] in OPTIMIZER_NAMES:
            self._merge({SETTING_OF[name]: value})
        else:
            self._set(SETTING_OF[name], value, name)

    def checked(self, model: type[M], names: Iterable[str], *, lifted: bool = False) -> M | None:
        """The values that are fields of `model`, checked by it."""
        own = {name: self.values[name] for name in names if name in self.values}
        try:
            return model.model_validate(own | ({"allow_out_of_range": True} if lifted else {}))
        except ValidationError as invalid:
            self.problems += [_said(error) for error in invalid.errors()]
            return None

    def _open(self, table: str, value: Any, known: Mapping[str, str]) -> None:
        if not isinstance(value, Mapping):
            self.problems.append(f"{table} is {value!r}, should be a table")
            return
        for key, item in value.items():
            if key in known:
                self._set(known[key], item, f"{table}.{key}")
            else:
                self.problems.append(f"{table} has no {key}{suggest(key, known)}")

    def _merge(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            self.problems.append(f"optimizer_config is {value!r}, should be a table")
            return
        self.values["optimizer_config"] = self.values.get("optimizer_config", {}) | dict(value)

    def _set(self, name: str, value: Any, given: str) -> None:
        if name == "use_dora":
            if not isinstance(value, bool):
                self.problems.append(f"{given} is {value!r}, should be true or false")
            name, value = "fine_tune_type", "dora" if value else "lora"
        elif name == "lora_layers" and value in (-1, 0):
            name, value = "all_layers", True
        if name in self.values and self.values[name] != value:
            self.problems.append(f"{given} = {value!r} contradicts {name} = {self.values[name]!r}")
        self.values[name] = value


def optimizer_settings(optimizer: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `optimizer_config` says about one optimizer: flat, or in mlx-lm's table of tables.

    `beta_1` and `beta_2` become `betas` where the optimizer has them so.
    """
    flat = {name: value for name, value in given.items() if name not in OPTIMIZER_SETTINGS}
    flat |= given.get(optimizer, {})
    if "betas" in OPTIMIZER_SETTINGS[optimizer] and flat.keys() & {"beta_1", "beta_2"}:
        both = flat.pop("betas", ADAM_BETAS)
        own = flat.pop("beta_1", None), flat.pop("beta_2", None)
        if _is_pair(both):
            both = [own if own is not None else usual for own, usual in zip(own, both, strict=True)]
        flat["betas"] = both
    return flat


def _optimizer_problems(optimizer: object, given: Mapping[str, Any]) -> list[str]:
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZER_SETTINGS:
        return []  # that is told where the field itself is checked
    tables = {name: value for name, value in given.items() if name in OPTIMIZER_SETTINGS}
    wrong = [f"optimizer_config.{n} is {v!r}, should be a table" for n, v in tables.items()
             if not isinstance(v, Mapping)]  # fmt: skip
    if wrong:
        return wrong
    known = OPTIMIZER_SETTINGS[optimizer]
    problems = []
    for name, value in optimizer_settings(optimizer, given).items():
        if name not in known:
            takes = ", ".join(sorted(known))
            problems.append(f"{optimizer} has no {name}{suggest(name, known)}; it takes {takes}")
        elif not _fits(optimizer, name, value):
            problems.append(f"{name} is {value!r}, should be {_wanted(optimizer, name)}")
    return problems


PAIRS = {("adam", "betas"), ("adamw", "betas"), ("adafactor", "eps")}
SWITCHES = {"bias_correction", "nesterov", "scale_parameter", "relative_step", "warmup_init"}


def _wanted(optimizer: str, name: str) -> str:
    if (optimizer, name) in PAIRS:
        return "two numbers"
    return "true or false" if name in SWITCHES else "a number"


def _fits(optimizer: str, name: str, value: Any) -> bool:
    if (optimizer, name) in PAIRS:
        return _is_pair(value) and all(map(_is_number, value))
    return isinstance(value, bool) if name in SWITCHES else _is_number(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _said(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["msg"].startswith("is "):  # one of ours
        return f"{where} {error['msg']}"
    return f"{where} {in_words(error)}"


def _training_settings() -> type[TrainingSettings]:
    from nanodistill.config.training_fields import TrainingSettings

    return TrainingSettings
