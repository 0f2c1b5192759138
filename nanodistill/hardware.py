"""The machine: chip, memory, cores; and the training settings that suit it.

A preset fills only training fields that nobody set, and only when a run of
training is made ready: the configuration itself shows its own defaults on every
machine. The numbers are those of the configuration analysis for its by-system
examples (8 GB, 16 GB, 36 GB, 128 GB). A chip of the plain tier gets no more than
the second: it may have the memory, but not the cores.
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
NO_LIMIT = 1 << 60
"""Version 1 of control groups writes a number beyond this for no limit."""

Kind = Literal["apple", "cuda", "cpu"]
Tier = Literal["", "Pro", "Max", "Ultra"]

APPLE = re.compile(r"Apple (M\d+)(?: (Pro|Max|Ultra))?")
GPU_TFLOPS: dict[str, dict[str, float]] = {
    "M1": {"": 2.6, "Pro": 5.2, "Max": 10.4, "Ultra": 21.0},
    "M2": {"": 3.6, "Pro": 6.8, "Max": 13.6, "Ultra": 27.2},
    "M3": {"": 3.5, "Pro": 6.4, "Max": 14.2, "Ultra": 28.4},
    "M4": {"": 4.3, "Pro": 8.5, "Max": 17.1, "Ultra": 34.0},
    "M5": {"": 5.5, "Pro": 11.0, "Max": 22.0, "Ultra": 44.0},
}
"""Peak of the GPU's float32 units, rounded; for estimates of time alone."""


@dataclass(frozen=True)
class Hardware:
    """What training would run on. `memory_gb` is the GPU's own where it has its own."""

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
        """Peak multiplications of the GPU, in 10^12 operations a second; None if unknown."""
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
STEPS_GB = (12, 30, 60)
"""Memory from which the next preset holds."""


def preset(hardware: Hardware) -> tuple[str, dict[str, Any]]:
    """The name of the preset that suits `hardware`, and training fields with their values."""
    if hardware.kind == "cpu":
        return CPU_PRESET
    step = sum(hardware.memory_gb >= gigabytes for gigabytes in STEPS_GB)
    plain = hardware.kind == "apple" and not hardware.tier
    return PRESETS[min(step, 1) if plain else step]


@functools.cache
def detect_hardware() -> Hardware:
    """This machine."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return apple(_sysctl("machdep.cpu.brand_string"), total_memory_gb(), cores())
    return _cuda() or Hardware("cpu", _cpu_name(), cores(), total_memory_gb())


def apple(brand: str, memory_gb: float, cores: int) -> Hardware:
    """Apple silicon by what the system calls it: "Apple M3 Max"."""
    found = APPLE.match(brand)
    if found is None:
        return Hardware("apple", brand, cores, memory_gb)
    tier: Tier = found[2] or ""  # type: ignore[assignment]
    return Hardware("apple", brand, cores, memory_gb, found[1], tier)


def cores() -> int:
    """Processor cores that this process may use: of the machine, and of its container."""
    free = len(usable_cores() or ()) or os.cpu_count() or 1
    allowed = confines().cores
    return free if allowed is None else max(1, min(free, math.ceil(allowed)))


def usable_cores() -> set[int] | None:
    """The numbers of the cores that this process is kept to; None where systems don't say."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    else:  # noqa: RET505 - the type checker reads the platform
        return None


def total_memory() -> int:
    """Bytes of memory: of the machine, or of the container where that has less."""
    import psutil

    allowed = confines().memory
    total = int(psutil.virtual_memory().total)
    return total if allowed is None else min(total, allowed)


def free_memory() -> int:
    """Bytes that can be had now, on the machine and in the container."""
    import psutil

    left = confines().memory_left
    free = int(psutil.virtual_memory().available)
    return free if left is None else min(free, left)


def total_memory_gb() -> float:
    return total_memory() / GIB


@dataclass(frozen=True)
class Confines:
    """What control groups leave to this process; None is no limit.

    `cores` may be a fraction. `memory` and `memory_left` are bytes: the smallest limit, and the
    least that is left under any, beside all that is in its group: our processes and others,
    which the kernel counts alike. `cpu_seconds` is what the group that limits the cores has
    computed so far, others in the container included.
    """

    cores: float | None = None
    memory: int | None = None
    memory_left: int | None = None
    cpu_seconds: float | None = None


def confines(process: Path = Path("/proc/self")) -> Confines:
    """The limits of this process's control groups and of all above them that can be seen, of
    either version. `process` holds the files `cgroup` and `mountinfo`."""
    memory, left, cores, spent = None, None, None, None
    for group in _groups(process, "memory"):
        for limit in _memory_limits(group):
            memory = limit if memory is None else min(memory, limit)
            room = max(0, limit - _memory_held(group))
            left = room if left is None else min(left, room)
    for group in _groups(process, "cpu"):
        allowed = _cpu_limit(group)
        if allowed is not None and (cores is None or allowed < cores):
            cores, spent = allowed, _cpu_seconds(group)
    return Confines(cores, memory, left, spent)


def _groups(process: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's groups, the innermost first."""
    for of_group in _lines(process / "cgroup"):
        _, controllers, path = [*of_group.split(":", 2), "", ""][:3]
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        mount = _mount(process, None if unified else controller)
        if mount is None:
            continue
        root, top = mount
        inside = PurePosixPath(path)
        below = inside.relative_to(root).parts if inside.is_relative_to(root) else ()
        if ".." in below:
            below = ()
        for depth in range(len(below), -1, -1):
            yield top.joinpath(*below[:depth])


def _mount(process: Path, controller: str | None) -> tuple[str, Path] | None:
    """Which group is mounted where, of a controller of version 1 or, for None, of version 2."""
    for line in _lines(process / "mountinfo"):
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) < 5 or len(kind) < 3:
            continue
        wanted = (
            kind[0] == "cgroup2"
            if controller is None
            else kind[0] == "cgroup" and controller in kind[2].split(",")
        )
        if wanted:
            return _unescaped(place[3]), Path(_unescaped(place[4]))
    return None


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _memory_limits(group: Path) -> list[int]:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    found = [_number(group / name) for name in names]
    # Version 1 tells the limit of groups above, which a container can't see by their folders.
    found.append(_table(group / "memory.stat").get("hierarchical_memory_limit"))
    return [limit for limit in found if limit is not None and 0 < limit < NO_LIMIT]


def _memory_held(group: Path) -> int:
    """Bytes that the group can't give back: files that were read are let go when room is needed."""
    held = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    stat = _table(group / "memory.stat")
    return max(0, held - stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _cpu_limit(group: Path) -> float | None:
    told = " ".join(_lines(group / "cpu.max")).split()
    quota, period = (told[0], told[1]) if len(told) == 2 else ("max", "")
    if not told:
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
    """None where there is no such file, or it may not be read: then nothing is known."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _cuda() -> Hardware | None:
    """The first NVIDIA GPU, where MLX's CUDA build is installed to use it."""
    if not any(_installed(name) for name in ("mlx-cuda-12", "mlx-cuda-13", "mlx-cuda")):
        return None
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
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


def _sysctl(name: str) -> str:
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
