"""The machine: chip, memory, cores; and the training settings that suit it.

A preset fills only training fields that nobody set, and only when a run of
training is made ready: the configuration itself shows its own defaults on every
machine. The numbers are those of the configuration analysis for its by-system
examples (8 GB, 16 GB, 36 GB, 128 GB). A chip of the plain tier gets no more than
the second: it may have the memory, but not the cores.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

GIB = 1 << 30

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
    """Processor cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:  # noqa: RET505 - the type checker reads the platform
        return os.cpu_count() or 1


def total_memory_gb() -> float:
    import psutil

    return float(psutil.virtual_memory().total / GIB)


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
