"""What this machine has: the facts that decide how fast and whether a run goes.

Keys are named, never shown. Nothing is fetched and no model is loaded.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from nanodistill.config import get_system_defaults
from nanodistill.events import Table
from nanodistill.hardware import (
    GIB,
    Hardware,
    detect_hardware,
    free_memory,
    preset,
    total_memory_gb,
)
from nanodistill.models.blas import Blas, load_fast_blas
from nanodistill.models.bundled import BUNDLED
from nanodistill.models.cache import cache_folder
from nanodistill.models.loading import mlx_device
from nanodistill.models.resolve import Located, locate_model
from nanodistill.secrets import is_secret_name

LIBRARIES = ("nanodistill", "mlx", "mlx-lm", "litellm", "instructor", "datasets", "pydantic")


@dataclass(frozen=True)
class SystemReport:
    """What `nanodistill doctor` shows. Memory in GiB."""

    machine: Mapping[str, str]
    memory: Mapping[str, float]
    blas: Blas
    mlx: str
    keys: tuple[str, ...]
    models: Mapping[str, str]
    cache: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "memory_gb": dict(self.memory),
            "blas": {"name": self.blas.name, "fast": self.blas.fast, "said": self.blas.describe()},
            "mlx": self.mlx,
            "keys": list(self.keys),
            "models": dict(self.models),
            "cache": self.cache,
            "versions": dict(self.versions),
        }

    def table(self) -> Table:
        rows = [
            *self.machine.items(),
            *((name, f"{gigabytes:.1f} GiB") for name, gigabytes in self.memory.items()),
            ("BLAS", self.blas.describe()),
            ("MLX", self.mlx),
            ("keys in the environment", ", ".join(self.keys) or "none"),
            *((f"model {name}", where) for name, where in self.models.items()),
            ("cache", self.cache),
            *self.versions.items(),
        ]
        return Table("This machine", ("what", "found"), tuple(rows))


def inspect_system(environment: Mapping[str, str] = os.environ) -> SystemReport:
    """Look at this machine."""
    return SystemReport(
        machine=_machine(detect_hardware()),
        memory=_memory(),
        blas=load_fast_blas(),
        mlx=mlx_device(),
        keys=tuple(sorted(k for k, value in environment.items() if value and is_secret_name(k))),
        models={name: _place(locate_model(name)) for name in BUNDLED},
        cache=str(cache_folder()),
        versions={name: _version(name) for name in LIBRARIES},
    )


def _place(model: Located) -> str:
    return str(model.path) if model.path else f"not here yet: {model.need}"


def _machine(hardware: Hardware) -> dict[str, str]:
    name, fields = preset(hardware)
    chosen = ", ".join(f"{field} {value}" for field, value in fields.items())
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "chip": hardware.describe(),
        "training preset": f"{name} ({chosen}), for fields that a run does not set",
        "Python": platform.python_version(),
    }


def _memory() -> dict[str, float]:
    pause, stop, _ = get_system_defaults()
    return {
        "memory": total_memory_gb(),
        "memory free": free_memory() / GIB,
        "training pauses above": pause,
        "training stops above": stop,
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
