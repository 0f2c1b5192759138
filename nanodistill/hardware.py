"""The machine: chip, memory, cores, container limits; and training presets for it.

A preset fills only training fields that nobody set, when a training run is prepared; the
configuration shows the same defaults on every machine. The values are those of the
configuration analysis for 8, 16, 36 and 128 GB.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

GIB = 1 << 30
NO_LIMIT = 1 << 60  # cgroups v1 write a number beyond this for "no limit"

Kind = Literal["apple", "cuda", "cpu"]
Tier = Literal["", "Pro", "Max", "Ultra"]

APPLE = re.compile(r"Apple (M\d+)(?: (Pro|Max|Ultra))?")
# The peak of each GPU's float32 units, rounded; only for estimates of time.
GPU_TFLOPS: dict[str, dict[str, float]] = {
    "M1": {"": 2.6, "Pro": 5.2, "Max": 10.4, "Ultra": 21.0},
    "M2": {"": 3.6, "Pro": 6.8, "Max": 13.6, "Ultra": 27.2},
    "M3": {"": 3.5, "Pro": 6.4, "Max": 14.2, "Ultra": 28.4},
    "M4": {"": 4.3, "Pro": 8.5, "Max": 17.1, "Ultra": 34.0},
    "M5": {"": 5.5, "Pro": 11.0, "Max": 22.0, "Ultra": 44.0},
}


@dataclass(frozen=True)
class Hardware:
    """What training runs on. `memory_gb` is in GiB, the GPU's own if it has its own."""

    kind: Kind
    chip: str
    cores: int
    memory_gb: float
    generation: str = ""
    tier: Tier = ""

    def describe(self) -> str:
        return f"{self.chip}, {self.cores} cores, {self.memory_gb:.0f} GiB"

    @property
    def tflops(self) -> float | None:
        """The GPU's peak, in 10^12 float32 operations a second; None if unknown."""
        return GPU_TFLOPS.get(self.generation, {}).get(self.tier)


PRESETS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "small",
        {"batch_size": 1, "max_seq_length": 256, "lora_rank": 4, "lora_layers": 2}
        | {"gradient_checkpointing": True},
    ),
    ("medium", {"batch_size": 2, "max_seq_length": 512}),
    (
        "large",
        {"batch_size": 4, "max_seq_length": 1024, "lora_rank": 16, "lora_layers": 8}
        | {"learning_rate": 5e-5},
    ),
    (
        "largest",
        {"batch_size": 8, "max_seq_length": 2048, "lora_rank": 32, "lora_layers": 16}
        | {"learning_rate": 1e-4},
    ),
)
CPU_PRESET: tuple[str, dict[str, Any]] = ("cpu", {"batch_size": 4, "max_seq_length": 512})
# GiB from which the next preset applies: between the analysis's examples of 8, 16, 36 and 128 GB.
PRESET_FROM_GB = (12, 30, 60)


def preset(hardware: Hardware) -> tuple[str, dict[str, Any]]:
    """The preset for `hardware`: its name, and training fields with their values.

    A chip without Pro, Max or Ultra gets at most the second preset: it may have the memory, but
    not the cores.
    """
    if hardware.kind == "cpu":
        return CPU_PRESET
    step = sum(hardware.memory_gb >= gigabytes for gigabytes in PRESET_FROM_GB)
    plain = hardware.kind == "apple" and not hardware.tier
    return PRESETS[min(step, 1) if plain else step]


@functools.cache
def detect_hardware() -> Hardware:
    """Detect this machine, once per process."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        name = ["sysctl", "-n", "machdep.cpu.brand_string"]
        brand = subprocess.run(name, capture_output=True, text=True, timeout=10)
        return apple(brand.stdout.strip(), total_memory_gb(), cores())
    return _cuda() or Hardware("cpu", _cpu_name(), cores(), total_memory_gb())


def apple(brand: str, memory_gb: float, cores: int) -> Hardware:
    """Apple silicon by the system's name for it, such as "Apple M3 Max"."""
    match = APPLE.match(brand)
    if match is None:
        return Hardware("apple", brand, cores, memory_gb)
    tier: Tier = match[2] or ""  # type: ignore[assignment]
    return Hardware("apple", brand, cores, memory_gb, match[1], tier)


def cores() -> int:
    """Processor cores that this process may use, on the machine and in its container."""
    usable = len(usable_cores() or ()) or os.cpu_count() or 1
    limit = cgroup_limits().cores
    return usable if limit is None else max(1, min(usable, math.ceil(limit)))


def usable_cores() -> set[int] | None:
    """The cores that this process is bound to, by number; None if the system doesn't say."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    else:  # noqa: RET505 - the type checker reads the platform
        return None


def total_memory() -> int:
    """Bytes of memory, the machine's or, if less, the container's."""
    import psutil

    limit = cgroup_limits().memory
    total = int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit)


def free_memory() -> int:
    """Bytes available now, on the machine and in the container."""
    import psutil

    left = cgroup_limits().memory_left
    free = int(psutil.virtual_memory().available)
    return free if left is None else min(free, left)


def total_memory_gb() -> float:
    return total_memory() / GIB


@dataclass(frozen=True)
class CgroupLimits:
    """What control groups allow this process; None is no limit.

    Attributes:
        cores: may be a fraction.
        memory: bytes, the smallest limit.
        memory_left: bytes, the least that is left under any limit.
        cpu_seconds: used so far by the group that limits the cores, all processes in it included.
    """

    cores: float | None = None
    memory: int | None = None
    memory_left: int | None = None
    cpu_seconds: float | None = None


MEMORY_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")


def cgroup_limits(process: Path = Path("/proc/self")) -> CgroupLimits:
    """The limits of this process's control groups and all visible groups above them, v1 or v2.

    https://docs.kernel.org/admin-guide/cgroup-v2.html

    Args:
        process: the folder with the files `cgroup` and `mountinfo`.
    """
    memory, left, cores, seconds = None, None, None, None
    for group in _groups(process, "memory"):
        # Files that were read are freed when memory is needed, so they don't count.
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        stat = _table(group / "memory.stat")
        used -= stat.get("total_inactive_file", stat.get("inactive_file", 0))
        # v1 names the limit of groups above, whose folders a container can't see.
        limits = [stat.get("hierarchical_memory_limit")]
        limits += [_number(group / name) for name in MEMORY_LIMITS]
        for limit in limits:
            if limit is not None and 0 < limit < NO_LIMIT:
                memory = limit if memory is None else min(memory, limit)
                room = max(0, limit - max(0, used))
                left = room if left is None else min(left, room)
    for group in _groups(process, "cpu"):
        limit_cores = _cpu_limit(group)
        if limit_cores is not None and (cores is None or limit_cores < cores):
            cores, seconds = limit_cores, _cpu_seconds(group)
    return CgroupLimits(cores, memory, left, seconds)


def _groups(process: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's groups, the innermost first."""
    for line in _lines(process / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        mount = _mount(process, None if unified else controller)
        if mount is None:
            continue
        root, mount_point = mount
        inside = PurePosixPath(path)
        below = inside.relative_to(root).parts if inside.is_relative_to(root) else ()
        if ".." in below:
            below = ()
        for depth in range(len(below), -1, -1):
            yield mount_point.joinpath(*below[:depth])


def _mount(process: Path, controller: str | None) -> tuple[str, Path] | None:
    """Root and mount point of a v1 controller or, for None, of v2. See proc(5), mountinfo."""
    for line in _lines(process / "mountinfo"):
        left, _, right = line.partition(" - ")
        mount, filesystem = left.split(), right.split()
        if len(mount) < 5 or len(filesystem) < 3:
            continue
        if controller is None:
            matches = filesystem[0] == "cgroup2"
        else:
            matches = filesystem[0] == "cgroup" and controller in filesystem[2].split(",")
        if matches:
            return _unescaped(mount[3]), Path(_unescaped(mount[4]))
    return None


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _cpu_limit(group: Path) -> float | None:
    """Cores that the group may use, of quota and period; None for no limit."""
    quota, period = [*" ".join(_lines(group / "cpu.max")).split(), "", ""][:2]
    if not quota:
        quota = " ".join(_lines(group / "cpu.cfs_quota_us"))
        period = " ".join(_lines(group / "cpu.cfs_period_us"))
    if not quota.isdecimal() or not period.isdecimal() or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def _cpu_seconds(group: Path) -> float | None:
    used = _table(group / "cpu.stat").get("usage_usec")
    if used is not None:
        return used / 1e6
    nanoseconds = _number(group / "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9


def _table(path: Path) -> dict[str, int]:
    rows = [line.split() for line in _lines(path)]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _number(path: Path) -> int | None:
    text = " ".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    """No lines if the file is missing or unreadable: then there is no known limit."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _cuda() -> Hardware | None:
    """The first NVIDIA GPU, if MLX's CUDA build is installed."""
    if not any(_installed(name) for name in ("mlx-cuda-12", "mlx-cuda-13", "mlx-cuda")):
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, mebibytes = answer.stdout.splitlines()[0].rpartition(", ")
    return Hardware("cuda", name, cores(), float(mebibytes) / 1024)


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
