"""A release that adds a field everywhere opens the work of this one as finished work.

The next release is a copy of the package with a field more in every part of the configuration, in
what `mlx_lm_kwargs` says, in the policy and in the manifest; it passes the tests beside this file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nanodistill

PACKAGE = Path(nanodistill.__file__).parent
ROOT = Path(__file__).parents[2]
GROWN = {
    "config/synthesis_fields.py": ["TaskSettings", "TeacherSettings", "DataSettings"],
    "config/training_fields.py": ["TrainingSettings", "DeliverySettings"],
    "config/mlx_options.py": ["LearningRateSchedule", "MlxSettings"],
    "dataset/manifest.py": ["VersionFacts", "CellCount"],
    "synthesis/policy.py": ["TaskPolicy"],
}
LATER = {
    name: f"later_{name.lower()}" for names in GROWN.values() for name in names
}  # no two alike, for the configuration joins its parts


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds it."""
    folder = tmp_path_factory.mktemp("next")
    ignored = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(PACKAGE, folder / "nanodistill", ignore=ignored)
    for file, names in GROWN.items():
        text = (package / file).read_text(encoding="utf-8")
        for name in names:
            head = re.compile(rf'^class {name}\(\w+\):\n(    """.*?"""\n)?', re.M | re.S)
            text, found = head.subn(rf'\g<0>    {LATER[name]}: str = "as before"\n', text)
            assert found == 1
        (package / file).write_text(text, encoding="utf-8")
    return folder


def in_next_release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )


SET = """
from legacy.ids import ids_of
from legacy.settings import config_of
print(ids_of(config_of(**{"%s": "otherwise"})) != ids_of(config_of()))
"""


def test_nothing_is_orphaned(next_release: Path) -> None:
    file = str(Path(__file__).with_name("test_v0_1_0.py"))
    done = in_next_release(
        next_release, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), file,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("part", ["DataSettings", "TrainingSettings", "DeliverySettings"])
def test_the_new_field_counts_once_it_is_set(next_release: Path, part: str) -> None:
    done = in_next_release(next_release, "-c", SET % LATER[part])
    assert done.stdout.strip() == "True", done.stderr
