"""What is trained and how: the training settings in effect for one run.

Fields that the user set stand; `mlx_lm_kwargs` lie over them; presets of the
machine fill only what is left. From here on nobody asks the configuration any
more: the child reads these options from its run folder, and a run's id is a
hash over them, the dataset's fingerprint and the student's weights. What can't
change the outcome (how often something is logged or saved, where metrics go)
is outside the id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill.config import DistillationConfig, TrainingSettings
from nanodistill.config.identity import identity_values
from nanodistill.config.mlx_config import mlx_lm_config
from nanodistill.config.mlx_options import MlxSettings, effective
from nanodistill.types import tagged_hash

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
TIMES_IN_A_RUN = 10
"""How often a run validates and saves unless told otherwise."""
LEAST_VALIDATIONS = 4
VALIDATION_SHARE = 0.5
RECORDS_IN_A_RUN = 100


@dataclass(frozen=True)
class TrainingOptions:
    """Settings with everything resolved; `seed` is that of data order, adapters and dropout."""

    settings: TrainingSettings
    beyond: MlxSettings
    seed: int

    @classmethod
    def of(cls, config: DistillationConfig, presets: Mapping[str, Any]) -> TrainingOptions:
        """The options that `config` asks for, with `presets` for the fields nobody set."""
        fields = {name: getattr(config, name) for name in TrainingSettings.model_fields}
        given = {name: fields[name] for name in fields if name in config.model_fields_set}
        unset = {name: value for name, value in presets.items() if name not in given}
        lifted = {"allow_out_of_range": True}
        settings, beyond = effective(TrainingSettings(**(fields | unset | lifted)))
        return cls(settings, beyond, config.random_seed if beyond.seed is None else beyond.seed)

    @property
    def rows_per_update(self) -> int:
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    def updates(self, updates_per_epoch: int) -> int:
        """Optimizer updates in the whole run."""
        if self.beyond.max_steps is not None:
            return self.beyond.max_steps
        if self.beyond.iters is not None:
            return math.ceil(self.beyond.iters / self.settings.gradient_accumulation_steps)
        return updates_per_epoch * self.settings.num_train_epochs

    def eval_every(self, updates: int, valid_rows: int) -> int:
        """Updates between validations; by default as many as cost half the rows of training."""
        batches = self.beyond.steps_per_eval
        if batches is not None:
            return self._of_batches(batches)
        if self.settings.eval_steps is not None:
            return self.settings.eval_steps
        worth = updates * self.rows_per_update * VALIDATION_SHARE / max(1, valid_rows)
        return max(1, round(updates / min(TIMES_IN_A_RUN, max(LEAST_VALIDATIONS, worth))))

    def save_every(self, updates: int) -> int:
        batches, steps = self.beyond.save_every, self.settings.save_steps
        if batches is not None:
            return self._of_batches(batches)
        return steps if steps is not None else max(1, round(updates / TIMES_IN_A_RUN))

    def log_every(self, updates: int) -> int:
        batches, steps = self.beyond.steps_per_report, self.settings.logging_steps
        if batches is not None:
            return self._of_batches(batches)
        return steps if steps is not None else max(1, round(updates / RECORDS_IN_A_RUN))

    def _of_batches(self, batches: int) -> int:
        return math.ceil(batches / self.settings.gradient_accumulation_steps)

    def mlx_lm(self, updates: int) -> dict[str, Any]:
        """The same in mlx-lm's own names; see nanodistill.config.mlx_config."""
        return mlx_lm_config(self.settings, self.beyond, self.seed, updates)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "beyond": self.beyond.model_dump(mode="json"),
            "seed": self.seed,
        }

    def identity_values(self) -> dict[str, Any]:
        """What decides the outcome: what is set, in the form of `to_json`."""
        settings, beyond = self.settings, self.beyond
        return {
            "settings": identity_values(settings, TrainingSettings, leave_out=NON_IDENTITY_FIELDS),
            "beyond": identity_values(beyond, MlxSettings, leave_out=NON_IDENTITY_FIELDS),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingOptions:
        settings = TrainingSettings.model_validate({**value["settings"]})
        return cls(settings, MlxSettings.model_validate(value["beyond"]), value["seed"])

    def run_id(
        self, dataset_fingerprint: str, student: str, scoring: Mapping[str, Any] | None
    ) -> str:
        """The name of the run's folder: equal runs have equal names.

        Args:
            student: identity of the student's weights.
            scoring: what the best checkpoint is chosen by, where it is a score.
        """
        value = {
            "dataset": dataset_fingerprint,
            **self.identity_values(),
            "student": student,
            "scoring": scoring,
        }
        return tagged_hash("nanodistill.training.v1", value)[:12]
