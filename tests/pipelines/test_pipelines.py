"""Every shipped pipeline holds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nanodistill.config import DistillationConfig, load_config

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "pipelines"
RUN_FILES = sorted(PIPELINES.glob("*.toml"))
SCRIPTS = sorted(PIPELINES.glob("*.py"))


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_many_are_shipped() -> None:
    assert (len(RUN_FILES), len(SCRIPTS)) == (1, 1)


@pytest.mark.parametrize("run_file", RUN_FILES, ids=lambda path: path.name)
def test_a_run_file_holds_and_its_data_is_there(run_file: Path) -> None:
    config = load_config(run_file)
    assert Path(str(config.seed)).is_file()
    assert config.test is None or Path(str(config.test)).is_file()


@pytest.mark.parametrize("small", [False, True])
def test_the_six_use_cases_and_the_structured_one_hold(small: bool) -> None:
    module = load(PIPELINES / "configuration.py")
    assert len(module.USE_CASES) == 7
    for use_case in module.USE_CASES:
        config = DistillationConfig(**module.settings(use_case, small=small))
        assert config.name == f"math-{use_case}"


def test_a_use_case_runs_by_name_in_small(tmp_path: Path) -> None:
    script = str(PIPELINES / "configuration.py")
    done = subprocess.run(
        [sys.executable, script, "quick", "--small", "--output-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "math-quick" / "model" / "model.safetensors").is_file()
    assert f"The model is in {tmp_path / 'math-quick' / 'model'}" in done.stdout


def test_a_use_case_that_is_none_is_told_with_those_there_are() -> None:
    script = str(PIPELINES / "configuration.py")
    done = subprocess.run([sys.executable, script, "fast"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "low-memory" in done.stderr
