"""What an import drags in. A library of seconds is loaded when it is used, and not before."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"aiohttp", "datasets", "instructor", "litellm", "mlx", "mlx_lm", "openai", "pandas"}
HEAVY |= {"pyarrow", "transformers"}
MODULES = [
    "nanodistill",
    "nanodistill.config",
    "nanodistill.api",
    "nanodistill.api",
    "nanodistill.cli",
]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules there are in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("module", MODULES)
def test_an_import_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_the_package_itself_does_not_even_load_pydantic() -> None:
    assert "pydantic" not in loaded_by("import nanodistill")
