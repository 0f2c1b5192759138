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
from nanodistill.config.mlx_config import mlx_lm_config
from nanodistill.config.mlx_options import MlxSettings, effective
from nanodistill.records import tagged_hash

BESIDE_THE_POINT = {
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

    def eval_every(self, updates: int) -> int:
        return self._every(self.settings.eval_steps, self.beyond.steps_per_eval, updates)

    def save_every(self, updates: int) -> int:
        return self._every(self.settings.save_steps, self.beyond.save_every, updates)

    def log_every(self, updates: int) -> int:
        steps, batches = self.settings.logging_steps, self.beyond.steps_per_report
        return self._every(steps, batches, updates, times=RECORDS_IN_A_RUN)

    def _every(
        self, steps: int | None, batches: int | None, updates: int, times: int = TIMES_IN_A_RUN
    ) -> int:
        """Updates between two of something: set in updates, or in batches, else so many a run."""
        if batches is not None:
            return math.ceil(batches / self.settings.gradient_accumulation_steps)
        return steps if steps is not None else max(1, round(updates / times))

    def mlx_lm(self, updates: int) -> dict[str, Any]:
        """The same in mlx-lm's own names; see nanodistill.config.mlx_config."""
        return mlx_lm_config(self.settings, self.beyond, self.seed, updates)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "beyond": self.beyond.model_dump(mode="json"),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingOptions:
        settings = TrainingSettings.model_validate({**value["settings"]})
        return cls(settings, MlxSettings.model_validate(value["beyond"]), value["seed"])

    def run_id(self, dataset_fingerprint: str, student: str, metric: str | None) -> str:
        """The name of the run's folder: equal runs have equal names.

        Args:
            student: identity of the student's weights.
            metric: what the best checkpoint is chosen by, where it is a score.
        """
        settings = self.settings.model_dump(mode="json", exclude=BESIDE_THE_POINT)
        beyond = self.beyond.model_dump(mode="json", exclude=BESIDE_THE_POINT)
        value = {
            "dataset": dataset_fingerprint,
            "settings": settings,
            "beyond": beyond,
            "seed": self.seed,
            "student": student,
            "metric": metric if self.settings.best_by == "score" else None,
        }
        return tagged_hash("nanodistill.training.v1", value)[:12]
