"""What a run can be told: every field, its default, its range and its description.

`synthesis_fields` and `training_fields` hold the fields of the two halves;
`DistillationConfig` is all of them, flat.
Defaults live here and nowhere else.
"""

from __future__ import annotations

from nanodistill.config.distillation import AdvancedConfig, DistillationConfig
from nanodistill.config.run_file import load_config
from nanodistill.config.synthesis_fields import (
    DataSettings,
    PromptTemplates,
    TaskSettings,
    TeacherPrice,
    TeacherSettings,
)
from nanodistill.config.training_fields import (
    DeliverySettings,
    MachineSettings,
    TrainingSettings,
    get_system_defaults,
)

__all__ = [
    "AdvancedConfig",
    "DataSettings",
    "DeliverySettings",
    "DistillationConfig",
    "MachineSettings",
    "PromptTemplates",
    "TaskSettings",
    "TeacherPrice",
    "TeacherSettings",
    "TrainingSettings",
    "get_system_defaults",
    "load_config",
]
