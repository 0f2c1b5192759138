"""Every id that decides whether work is done already, for a configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from nanodistill.config import DeliverySettings, DistillationConfig
from nanodistill.dataset import DatasetVersion, config_hash
from nanodistill.events import ignore
from nanodistill.exporting.pipeline import NON_IDENTITY_FIELDS
from nanodistill.synthesis.rounds import _identity
from nanodistill.synthesis.task import load_task
from nanodistill.training.training_options import TrainingOptions, scoring_identity

VERSION = cast("DatasetVersion", SimpleNamespace(manifest=SimpleNamespace(thinking_format="xml")))


def ids_of(config: DistillationConfig) -> dict[str, str]:
    options = TrainingOptions.from_config(config, {})
    scored = options.settings.best_by == "score"
    scoring = scoring_identity(config, VERSION) if scored else None
    return {
        "dataset": config_hash(config),
        "synthesis": _identity(load_task(config, ignore)),
        "training": options.run_id("f" * 64, "files-sha256:0", scoring),
        "export": config.hash_of(DeliverySettings, leave_out=NON_IDENTITY_FIELDS),
    }
