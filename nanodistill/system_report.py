"""What `nanodistill doctor` shows: the facts that decide whether and how fast a run works.

API keys are named, never shown. Nothing is fetched and no model is loaded.
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
    detect_hardware,
    free_memory,
    preset,
    total_memory_gb,
)
from nanodistill.models.blas import Blas, load_fast_blas
from nanodistill.models.bundled import BUNDLED
from nanodistill.models.cache import cache_folder
from nanodistill.models.loading import mlx_device
from nanodistill.models.resolve import locate_model
from nanodistill.secrets import is_secret_name

LIBRARIES = ("nanodistill", "mlx", "mlx-lm", "litellm", "instructor", "datasets", "pydantic")


@dataclass(frozen=True)
class SystemReport:
    """The facts about this machine. Memory is in GiB."""

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
        return Table("This machine", ("", "value"), tuple(rows))


def inspect_system(environment: Mapping[str, str] = os.environ) -> SystemReport:
    """Inspect this machine."""
    hardware = detect_hardware()
    name, fields = preset(hardware)
    values = ", ".join(f"{field} {value}" for field, value in fields.items())
    soft, hard, _ = get_system_defaults()
    models = {model: locate_model(model) for model in BUNDLED}
    return SystemReport(
        machine={
            "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
            "chip": hardware.describe(),
            "training preset": f"{name} ({values}), for fields that a run does not set",
            "Python": platform.python_version(),
        },
        memory={
            "memory": total_memory_gb(),
            "memory free": free_memory() / GIB,
            "training pauses above": soft,
            "training stops above": hard,
        },
        blas=load_fast_blas(),
        mlx=mlx_device(),
        keys=tuple(sorted(k for k, value in environment.items() if value and is_secret_name(k))),
        models={
            model: str(located.path) if located.path else f"not downloaded: {located.need}"
            for model, located in models.items()
        },
        cache=str(cache_folder()),
        versions={library: _version(library) for library in LIBRARIES},
    )


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
