"""Keeps training within the memory and processors that the user allows.

Before each batch, at most once per `INTERVAL`, the guard checks two things.

Memory: what our processes hold (the command, the training process and their children)
or what MLX counts, whichever is more. Above `max_memory_gb` it releases caches and
pauses training until memory comes free; above `memory_hard_limit_gb`, or when a pause
of `PATIENCE` changed nothing, training ends with a checkpoint.

Processors: the load of everything that is not ours. Above `cpu_capacity_percent` it
pauses until the load falls, for at most `LOAD_PATIENCE`; then training continues beside
it, and pauses again only after the load has fallen once. Training never pauses for its
own load.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import psutil

from nanodistill.errors import MemoryLimitError
from nanodistill.hardware import GIB, cgroup_limits, cores, usable_cores

# Seconds. All four are choices, not measurements.
INTERVAL = 1.0  # between two checks; reading a process tree takes milliseconds
PATIENCE = 120.0  # for memory. Programs that close free it within seconds; after that nobody will
LOAD_PATIENCE = 900.0  # for other programs. Less spoils a video call, more a night of training
LOAD_WINDOW = 2.0  # over which load is averaged; a shorter one pauses for every page that loads
WAY_OUT = (
    "Training so far is safe. Allow more memory, or set gradient_checkpointing = true, or a "
    "smaller batch_size with more gradient_accumulation_steps, then rerun the command to resume."
)


@dataclass(frozen=True)
class ResourceLimits:
    """What training may use. `cpu_share` limits the load of others, and our threads."""

    max_memory_gb: float
    memory_hard_limit_gb: float
    cpu_share: float

    @property
    def threads(self) -> int:
        return max(1, round(self.cpu_share * cores()))


@dataclass(frozen=True)
class CpuTimes:
    """Processor seconds since some start: the machine's, busy and total, and ours."""

    busy: float
    total: float
    ours: float


def share_of_others(before: CpuTimes, after: CpuTimes) -> float:
    """The share of the processors that was neither idle nor ours between two readings."""
    total = after.total - before.total
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return max(0.0, others / total) if total > 0 else 0.0


class Readings(Protocol):
    """What the guard reads."""

    def memory(self) -> int:
        """Bytes that our processes hold."""

    def cpu(self) -> CpuTimes: ...


@dataclass(frozen=True)
class ResourceUsage:
    """Use of the machine before training: bytes held by this process and its children, and the
    share of the processors that everything else uses."""

    memory: int
    cpu: float


class MachineReadings:
    """The machine as psutil sees it, or its container if that limits the processors.

    Ours are `root` and the processes under it.
    """

    def __init__(self, root: psutil.Process) -> None:
        self._root = root

    @classmethod
    def of_this_run(cls) -> MachineReadings:
        """For the command that started us, or for us if it is gone."""
        own = psutil.Process()
        parent = own.parent()
        return cls(parent if parent is not None and parent.pid > 1 else own)

    def processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return [psutil.Process()]

    def memory(self) -> int:
        return sum(_resident_bytes(process) for process in self.processes())

    def cpu(self) -> CpuTimes:
        ours = sum(_cpu_seconds(process) for process in self.processes())
        group = cgroup_limits()
        if group.cores is not None and group.cpu_seconds is not None:
            return CpuTimes(group.cpu_seconds, group.cores * monotonic(), ours)
        usable = usable_cores()
        every = psutil.cpu_times(percpu=True)
        times = [each for n, each in enumerate(every) if usable is None or n in usable] or every
        # Only Linux counts waiting for disks, which is idle time, apart from it.
        idle = sum(each.idle + getattr(each, "iowait", 0.0) for each in times)
        total = sum(sum(each) for each in times)
        return CpuTimes(total - idle, total, ours)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return float(times.user + times.system)


class ResourceGuard:
    """Checked before each batch.

    Args:
        mlx_memory: returns the bytes that MLX holds, its cache included.
        release: frees MLX's cache.
        wait: waits some seconds; returns whether somebody asked to stop.
        warn: shows a message to the user.
    """

    def __init__(
        self,
        limits: ResourceLimits,
        readings: Readings,
        *,
        mlx_memory: Callable[[], int],
        release: Callable[[], None],
        wait: Callable[[float], bool],
        warn: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limits = limits
        self._readings = readings
        self._mlx_memory = mlx_memory
        self._release = release
        self._wait = wait
        self._warn = warn
        self._clock = clock
        self._checked = -INTERVAL
        self._last_cpu = (clock(), readings.cpu())
        self._ignores_load = False
        self.memory = 0

    def check(self) -> None:
        """Return when training may continue, possibly after a pause.

        Raises:
            MemoryLimitError: it may not.
        """
        if self._clock() - self._checked < INTERVAL:
            return
        self._check_memory()
        self._check_load()
        self._checked = self._clock()

    def _read_memory(self) -> float:
        """GiB in use."""
        self.memory = max(self._readings.memory(), self._mlx_memory())
        return self.memory / GIB

    def _memory_below_hard_limit(self) -> float:
        used, hard = self._read_memory(), self._limits.memory_hard_limit_gb
        if used > hard:
            raise MemoryLimitError(
                f"Training used {used:.2f} GiB, more than memory_hard_limit_gb = {hard:g}.",
                next_step=WAY_OUT,
            )
        return used

    def _check_memory(self) -> None:
        soft = self._limits.max_memory_gb
        if self._memory_below_hard_limit() <= soft:
            return
        gc.collect()
        self._release()
        used = self._read_memory()
        if used <= soft:
            return
        self._warn(f"paused: {used:.1f} GiB in use, max_memory_gb is {soft:g}")
        since = self._clock()
        while used > soft:
            if self._wait(INTERVAL):
                return
            used = self._memory_below_hard_limit()
            if self._clock() - since > PATIENCE and used > soft:
                raise MemoryLimitError(
                    f"Training paused for {PATIENCE:.0f} s at {used:.1f} GiB and no memory came "
                    f"free; max_memory_gb is {soft:g}.",
                    next_step=WAY_OUT,
                )
        self._warn("resumed")

    def _check_load(self) -> None:
        share = self._limits.cpu_share
        load = self._load_of_others()
        if load is None:
            return
        if load <= share:
            self._ignores_load = False
            return
        if self._ignores_load:
            return
        since = self._clock()
        self._warn(
            f"paused: other programs use {load:.0%} of the processors, cpu_capacity_percent is "
            f"{share:g}"
        )
        while load is None or load > share:
            if self._wait(LOAD_WINDOW):
                return
            load = self._load_of_others()
            if load is not None and load > share and self._clock() - since > LOAD_PATIENCE:
                self._ignores_load = True
                self._warn(
                    f"resumed: other programs still use {load:.0%} of the processors after "
                    f"{LOAD_PATIENCE / 60:.0f} minutes; training is slower beside them"
                )
                return
        self._warn("resumed")

    def _load_of_others(self) -> float | None:
        """Their share of the processors since the last call; None if that is too recent."""
        now, cpu = self._clock(), self._readings.cpu()
        then, before = self._last_cpu
        if now - then < LOAD_WINDOW:
            return None
        self._last_cpu = (now, cpu)
        return share_of_others(before, cpu)
