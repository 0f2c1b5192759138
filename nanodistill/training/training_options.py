"""A run's settings, as the training process reads them, and how a checkpoint is scored.

`TrainingOptions` are resolved once, in the command: the user's fields, overridden
by `mlx_lm_kwargs`, with the hardware preset for whatever nobody set. From then on
nothing reads the configuration again. The training process reads a `TrainingJob`
from job.json, and a run's id is a hash over these options, the dataset's
fingerprint and the student's weights, so equal runs share one folder. Settings
that can't change the result (`NON_IDENTITY_FIELDS`) stay out of that hash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nanodistill.config import DeliverySettings, DistillationConfig, TrainingSettings
from nanodistill.config.identity import identity_values, plain_value
from nanodistill.config.mlx_config import mlx_lm_config
from nanodistill.config.mlx_options import MlxSettings, effective
from nanodistill.metrics.metric_selection import TaskFacts, choose_metric
from nanodistill.metrics.output_parser import output_format
from nanodistill.metrics.row_metrics import Metric
from nanodistill.thinking import FORMATS, Format
from nanodistill.training.resource_guard import ResourceLimits
from nanodistill.types import tagged_hash

if TYPE_CHECKING:
    from nanodistill.dataset import DatasetVersion

NON_IDENTITY_FIELDS = {
    "allow_out_of_range",
    "clear_cache_threshold",
    "gradient_checkpointing",
    "logging_steps",
    "mlx_lm_kwargs",
    "report_to",
    "save_every",
    "save_steps",
    "steps_per_report",
}

# Defaults for runs that set no interval. They are choices, not measurements.
# 10 saves: a crash loses a tenth of a run at most. Half as many lose a fifth; twice as many
# write twice as many files.
SAVES_PER_RUN = 10
# Validations are spaced so that they read half as many rows as training does, between 4 (fewer
# leave no choice of a best checkpoint) and 10 (more say little that is new).
VALIDATION_SHARE = 0.5
MIN_VALIDATIONS, MAX_VALIDATIONS = 4, 10
LOGS_PER_RUN = 100  # the points of a loss curve that a screen can still show


@dataclass(frozen=True)
class TrainingOptions:
    """The settings of one run, fully resolved.

    Attributes:
        settings: the training fields, with `mlx_lm_kwargs` and the preset applied.
        overrides: what `mlx_lm_kwargs` set that has no field.
        seed: decides row order, the adapters' initial values and dropout.
    """

    settings: TrainingSettings
    overrides: MlxSettings
    seed: int

    @classmethod
    def from_config(cls, config: DistillationConfig, preset: Mapping[str, Any]) -> TrainingOptions:
        """Resolve `config`; `preset` fills only the fields that the user did not set."""
        fields = {name: getattr(config, name) for name in TrainingSettings.model_fields}
        unset = {k: value for k, value in preset.items() if k not in config.model_fields_set}
        # Ranges were checked when the configuration was read; a preset may exceed them.
        lifted = {"allow_out_of_range": True}
        settings, overrides = effective(TrainingSettings(**(fields | unset | lifted)))
        seed = config.random_seed if overrides.seed is None else overrides.seed
        return cls(settings, overrides, seed)

    @property
    def rows_per_update(self) -> int:
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    def updates(self, updates_per_epoch: int) -> int:
        """Optimizer updates in the whole run."""
        if self.overrides.max_steps is not None:
            return self.overrides.max_steps
        if self.overrides.iters is not None:
            return self._updates_of(self.overrides.iters)
        return updates_per_epoch * self.settings.num_train_epochs

    def eval_every(self, updates: int, valid_rows: int) -> int:
        """Updates between two validations."""
        if self.overrides.steps_per_eval is not None:
            return self._updates_of(self.overrides.steps_per_eval)
        if self.settings.eval_steps is not None:
            return self.settings.eval_steps
        affordable = updates * self.rows_per_update * VALIDATION_SHARE / max(1, valid_rows)
        return max(1, round(updates / min(MAX_VALIDATIONS, max(MIN_VALIDATIONS, affordable))))

    def save_every(self, updates: int) -> int:
        """Updates between two checkpoints."""
        if self.overrides.save_every is not None:
            return self._updates_of(self.overrides.save_every)
        return self.settings.save_steps or max(1, round(updates / SAVES_PER_RUN))

    def log_every(self, updates: int) -> int:
        """Updates between two records of the loss."""
        if self.overrides.steps_per_report is not None:
            return self._updates_of(self.overrides.steps_per_report)
        return self.settings.logging_steps or max(1, round(updates / LOGS_PER_RUN))

    def _updates_of(self, batches: int) -> int:
        """mlx-lm counts batches, we count updates."""
        return math.ceil(batches / self.settings.gradient_accumulation_steps)

    def mlx_lm(self, updates: int) -> dict[str, Any]:
        """The same settings in mlx-lm's own names."""
        return mlx_lm_config(self.settings, self.overrides, self.seed, updates)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "beyond": self.overrides.model_dump(mode="json"),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingOptions:
        settings = TrainingSettings.model_validate({**value["settings"]})
        return cls(settings, MlxSettings.model_validate(value["beyond"]), value["seed"])

    def identity_values(self) -> dict[str, Any]:
        """The values that decide the result, in the form of `to_json`."""
        leave_out = NON_IDENTITY_FIELDS
        return {
            "settings": identity_values(self.settings, TrainingSettings, leave_out=leave_out),
            "beyond": identity_values(self.overrides, MlxSettings, leave_out=leave_out),
            "seed": self.seed,
        }

    def run_id(
        self, dataset_fingerprint: str, student: str, scoring: Mapping[str, Any] | None
    ) -> str:
        """The name of the run's folder, equal for equal runs.

        Args:
            student: the identity of the student's weights.
            scoring: `scoring_identity` if the best checkpoint is chosen by score.
        """
        value = {
            "dataset": dataset_fingerprint,
            **self.identity_values(),
            "student": student,
            "scoring": scoring,
        }
        return tagged_hash("nanodistill.training.v1", value)[:12]


@dataclass(frozen=True)
class Scoring:
    """How `best_by = "score"` scores the validation rows; `golds` are their outputs.

    Every value can be written as JSON, because the training process reads it from job.json.
    """

    metric: str
    numeric_tolerance: float
    labels: tuple[str, ...] | None
    schema: Mapping[str, Any] | None
    thinking_format: str
    train_on: Literal["cot", "answer"]
    max_new_tokens: int
    batch_size: int
    golds: tuple[str, ...]

    @classmethod
    def from_config(
        cls, config: DistillationConfig, dataset: DatasetVersion, rows: Iterable[int]
    ) -> Scoring:
        """The scoring for these rows of the validation split, by index.

        Raises:
            ConfigError: the metric or thinking format can't be imported by another process.
            InputError: the metric does not fit the rows.
        """
        golds = [row["output"] for row in dataset.rows("valid")]
        manifest = dataset.manifest
        built_in = manifest.thinking_format in FORMATS
        scoring = cls(
            metric=plain_value(config.metric),
            numeric_tolerance=config.numeric_tolerance,
            labels=manifest.labels,
            schema=manifest.response_schema,
            thinking_format=(
                manifest.thinking_format if built_in else plain_value(config.thinking_format)
            ),
            train_on=config.train_on,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.eval_batch_size,
            golds=tuple(golds[row] for row in rows),
        )
        scoring.resolve_metric()
        scoring.resolve_format()
        return scoring

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scoring:
        labels = None if value["labels"] is None else tuple(value["labels"])
        return cls(**{**value, "golds": tuple(value["golds"]), "labels": labels})

    def resolve_metric(self) -> Metric:
        settings = DeliverySettings(metric=self.metric, numeric_tolerance=self.numeric_tolerance)
        return choose_metric(settings, TaskFacts(self.labels, self.schema), self.golds).metric

    def resolve_format(self) -> Format:
        return output_format(self.thinking_format, self.train_on)


def scoring_identity(config: DistillationConfig, dataset: DatasetVersion) -> dict[str, Any]:
    """What decides a score apart from the dataset, which holds golds, labels and schema."""
    return {
        "metric": plain_value(config.metric),
        "numeric_tolerance": config.numeric_tolerance,
        "thinking_format": dataset.manifest.thinking_format,
        "max_new_tokens": config.max_new_tokens,
    }


@dataclass(frozen=True)
class TrainingJob:
    """job.json: everything the training process needs besides rows.npz.

    Attributes:
        data: a hash of the rows' tokens, which a checkpoint must match.
        window: rows that are sorted by length together; see `BatchSampler`.
        micro_batch: rows in one batch; smaller than `batch_size` after running out of memory.
        checkpointing: whether gradient checkpointing is on.
        parent: the command's process id. When it is gone, training saves and ends.
        scored_by: set if the best checkpoint is chosen by score.
    """

    student: str
    options: TrainingOptions
    limits: ResourceLimits
    data: str
    window: int
    micro_batch: int
    checkpointing: bool
    parent: int
    scored_by: Scoring | None

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "options": self.options.to_json(),
            "limits": asdict(self.limits),
            "scored_by": None if self.scored_by is None else asdict(self.scored_by),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingJob:
        scored = value["scored_by"]
        parts = {
            "options": TrainingOptions.from_json(value["options"]),
            "limits": ResourceLimits(**value["limits"]),
            "scored_by": None if scored is None else Scoring.from_json(scored),
        }
        return cls(**{**value, **parts})
