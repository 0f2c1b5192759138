"""How much of the machine training may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from nanodistill.config.ranges import Range
from nanodistill.config.settings import Settings, several

LOWEST_GB = 2
CAP_GB = 12
PAUSE_SHARE, STOP_SHARE = 0.9, 0.95
CPU_SHARE = 0.8


def get_system_defaults() -> tuple[int, int, float]:
    """Limits that suit this machine: (max_memory_gb, memory_hard_limit_gb, cpu_capacity_percent).

    90% and 95% of the memory in whole GiB, each at most 12 and at least 2.
    """
    from nanodistill.hardware import total_memory_gb

    return *memory_limits(total_memory_gb()), CPU_SHARE


def memory_limits(total_gb: float) -> tuple[int, int]:
    """Where training pauses and where it stops on a machine with so much memory, in GiB."""
    return _within(total_gb * PAUSE_SHARE), _within(total_gb * STOP_SHARE)


def out_of_order(soft: float, hard: float) -> str:
    """What is wrong with memory limits of which the hard one is below the soft one."""
    return f"is {hard}, must be at least max_memory_gb, which is {soft}"


def _within(gigabytes: float) -> int:
    return max(LOWEST_GB, int(min(gigabytes, CAP_GB)))


class MachineSettings(Settings):
    """Memory and processor limits of training."""

    max_memory_gb: Annotated[int, Range(2, 128)] = Field(
        default_factory=lambda: get_system_defaults()[0],
        description="Training pauses above this much memory, in GiB.",
    )
    memory_hard_limit_gb: Annotated[int, Range(2, 128)] = Field(
        default_factory=lambda: get_system_defaults()[1],
        description="Training writes a checkpoint and stops above this much memory, in GiB.",
    )
    cpu_capacity_percent: Annotated[float, Range(0.1, 1.0, liftable=False)] = Field(
        default=CPU_SHARE,
        description="Training pauses while everything else on the machine uses more than this "
        "share of the processors, and takes no more than it itself.",
    )

    @staticmethod
    def get_system_defaults() -> tuple[int, int, float]:
        """See `nanodistill.config.machine.get_system_defaults`."""
        return get_system_defaults()

    @model_validator(mode="after")
    def _pause_before_stop(self) -> MachineSettings:
        """An automatic limit gives way to the one that was set; two set ones must agree."""
        if self.memory_hard_limit_gb >= self.max_memory_gb:
            return self
        chosen = {"max_memory_gb", "memory_hard_limit_gb"} & self.model_fields_set
        if chosen == {"max_memory_gb"}:
            object.__setattr__(self, "memory_hard_limit_gb", self.max_memory_gb)
        elif chosen == {"memory_hard_limit_gb"}:
            object.__setattr__(self, "max_memory_gb", self.memory_hard_limit_gb)
        else:
            what = out_of_order(self.max_memory_gb, self.memory_hard_limit_gb)
            raise several("memory_order", [("memory_hard_limit_gb", what)])
        return self
