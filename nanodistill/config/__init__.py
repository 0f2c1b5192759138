"""What a run can be told: every field, its default, its range and its description.

The fields lie in one part each for the rooms that read them (task, teaching,
data, training, machine, delivery); `DistillationConfig` is all of them, flat.
Defaults live here and nowhere else.
"""

from __future__ import annotations

from nanodistill.config.advanced import AdvancedConfig
from nanodistill.config.data import DataSettings, PromptTemplates
from nanodistill.config.delivery import DeliverySettings
from nanodistill.config.distillation import DistillationConfig
from nanodistill.config.machine import MachineSettings, get_system_defaults
from nanodistill.config.runfile import load_config
from nanodistill.config.task import TaskSettings
from nanodistill.config.teaching import TeacherPrice, TeacherSettings
from nanodistill.config.training import TrainingSettings

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
