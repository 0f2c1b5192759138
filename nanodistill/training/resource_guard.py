"""Keeps training within what the user gave it of the machine.

Before each batch the guard looks, at most once in `INTERVAL` seconds, at two
things. Memory: what our processes hold (the command, the training child and
whatever they started), or what MLX counts, whichever is more. Above
`max_memory_gb` caches are released and training pauses until it is less; above
`memory_hard_limit_gb`, or when a pause of `PATIENCE` seconds brought nothing,
training ends with a checkpoint. Processors: the load of everything that is not
ours; above `cpu_capacity_percent` training steps aside until it falls, for `LOAD_PATIENCE`
seconds at most: then it goes on beside them, and steps aside again only once it has
fallen in between. Our own work never pauses itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import psutil

from nanodistill.errors import MemoryLimitError
from nanodistill.hardware import GIB, confines, cores, usable_cores

INTERVAL = 1.0
PATIENCE = 120.0
LOAD_PATIENCE = 900.0
"""Seconds that training steps aside for others at most."""
LOAD_WINDOW = 2.0
"""Seconds over which the processors' load is taken."""


@dataclass(frozen=True)
class ResourceLimits:
    """What training may take. `cpu_share` bounds the load of others, and our threads."""

    max_memory_gb: float
    memory_hard_limit_gb: float
    cpu_share: float

    @property
    def threads(self) -> int:
        return max(1, round(self.cpu_share * cores()))


@dataclass(frozen=True)
class CpuTimes:
    """Processor seconds since some start: of the whole machine, busy and all, and of ours."""

    busy: float
    total: float
    ours: float


def share_of_others(before: CpuTimes, after: CpuTimes) -> float:
    """Of the processors, what was neither idle nor ours in between."""
    total = after.total - before.total
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return max(0.0, others / total) if total > 0 else 0.0


class Readings(Protocol):
    """What the guard goes by."""

    def memory(self) -> int:
        """Bytes that our processes hold."""

    def cpu(self) -> CpuTimes: ...


@dataclass(frozen=True)
class ResourceUsage:
    """What is taken of the machine before training begins: bytes by this process and those that
    it started, and a share of the processors by everything else."""

    memory: int
    cpu: float


class MachineReadings:
    """The machine as psutil sees it, or the container where that has less of the processors; ours
    are the processes under `root`."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root

    @classmethod
    def of_this_run(cls) -> MachineReadings:
        """Under the command that started us, or us where it is gone."""
        own = psutil.Process()
        parent = own.parent()
        return cls(parent if parent is not None and parent.pid > 1 else own)

    def processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return [psutil.Process()]

    def memory(self) -> int:
        return sum(_resident(process) for process in self.processes())

    def cpu(self) -> CpuTimes:
        ours = sum(_spent(process) for process in self.processes())
        within = confines()
        if within.cores is not None and within.cpu_seconds is not None:
            return CpuTimes(within.cpu_seconds, within.cores * monotonic(), ours)
        busy, total = _machine_times()
        return CpuTimes(busy, total, ours)


def _machine_times() -> tuple[float, float]:
    """Seconds, busy and all, of the cores that we may use."""
    ours = usable_cores()
    every = psutil.cpu_times(percpu=True)
    times = [each for n, each in enumerate(every) if ours is None or n in ours] or every
    idle = sum(each.idle + getattr(each, "iowait", 0.0) for each in times)
    total = sum(sum(each) for each in times)
    return total - idle, total


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return float(times.user + times.system)


class ResourceGuard:
    """Asked before each batch.

    Args:
        mlx_memory: bytes that MLX holds, its cache included.
        release: gives MLX's cache back.
        wait: waits some seconds and returns whether stopping was asked for.
        say: tells the person who watches.
    """

    def __init__(
        self,
        limits: ResourceLimits,
        readings: Readings,
        *,
        mlx_memory: Callable[[], int],
        release: Callable[[], None],
        wait: Callable[[float], bool],
        say: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limits = limits
        self._readings = readings
        self._mlx_memory = mlx_memory
        self._release = release
        self._wait = wait
        self._say = say
        self._clock = clock
        self._looked = -INTERVAL
        self._cpu_from = (clock(), readings.cpu())
        self._beside_others = False
        self.memory = 0

    def check(self) -> None:
        """Return when training may go on.

        Raises:
            MemoryLimitError: it may not.
        """
        if self._clock() - self._looked < INTERVAL:
            return
        self._check_memory()
        self._check_load()
        self._looked = self._clock()

    def _held(self) -> float:
        self.memory = max(self._readings.memory(), self._mlx_memory())
        return self.memory / GIB

    def _check_memory(self) -> None:
        held, soft = self._held(), self._limits.max_memory_gb
        self._refuse_above_hard(held)
        if held <= soft:
            return
        gc.collect()
        self._release()
        held = self._held()
        if held <= soft:
            return
        self._say(
            f"paused: {held:.1f} GiB are in use, more than max_memory_gb = {soft:g}; "
            "going on when it is less"
        )
        since = self._clock()
        while held > soft:
            if self._wait(INTERVAL):
                return
            held = self._held()
            self._refuse_above_hard(held)
            if self._clock() - since > PATIENCE and held > soft:
                raise MemoryLimitError(
                    f"Training paused for {PATIENCE:.0f} s at {held:.1f} GiB and no memory came "
                    f"free; max_memory_gb is {soft:g}.",
                    next_step=WAY_OUT,
                )
        self._say("going on")

    def _refuse_above_hard(self, held: float) -> None:
        hard = self._limits.memory_hard_limit_gb
        if held > hard:
            raise MemoryLimitError(
                f"Training held {held:.2f} GiB, more than memory_hard_limit_gb = {hard:g}.",
                next_step=WAY_OUT,
            )

    def _check_load(self) -> None:
        others = self._load_of_others()
        if others is None:
            return
        if others <= self._limits.cpu_share:
            self._beside_others = False
            return
        if self._beside_others:
            return
        since = self._clock()
        self._say(
            f"paused: everything else uses {others:.0%} of the processors, more than "
            f"cpu_capacity_percent = {self._limits.cpu_share:g}; going on when it is less"
        )
        while others is None or others > self._limits.cpu_share:
            if self._wait(LOAD_WINDOW):
                return
            others = self._load_of_others()
            over = others is not None and others > self._limits.cpu_share
            if over and self._clock() - since > LOAD_PATIENCE:
                self._beside_others = True
                self._say(
                    f"everything else still uses {others:.0%} of the processors after "
                    f"{LOAD_PATIENCE / 60:.0f} minutes; going on beside it, more slowly"
                )
                return
        self._say("going on")

    def _load_of_others(self) -> float | None:
        """Their share of the processors since the last look; None while that is too recent."""
        now, cpu = self._clock(), self._readings.cpu()
        then, before = self._cpu_from
        if now - then < LOAD_WINDOW:
            return None
        self._cpu_from = (now, cpu)
        return share_of_others(before, cpu)


WAY_OUT = (
    "What was trained is safe. Give it more memory, or set gradient_checkpointing = true, or a "
    "smaller batch_size with as much more gradient_accumulation_steps, and run the command again."
)
