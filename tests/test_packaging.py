"""What is installed: the wheel, the pins, and the commands that the README tells a newcomer."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nanodistill
from nanodistill.cli import cli

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = {
    "constraints.txt": [
        *PROJECT["dependencies"],
        *EXTRAS["cpu"],
        *EXTRAS["baseline"],
        *EXTRAS["dev"],
    ],
    "docs/building/constraints.txt": PYPROJECT["dependency-groups"]["docs"],
}
"""Each file of pins, and what it is made for."""


def text_of(pins: str) -> str:
    return (ROOT / pins).read_text(encoding="utf-8")


def pins_in(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE)


def recipes() -> dict[str, str]:
    """The recipes of the justfile, each with the comment above it, which `just --list` shows."""
    found, comment = {}, ""
    for line in (ROOT / "justfile").read_text().splitlines():
        if recipe := re.match(r"([a-z-]+)[^:]*:(?!=)", line):
            found[recipe[1]] = comment
        elif not line.startswith("["):
            comment = line.removeprefix("# ") if line.startswith("# ") else ""
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *build, str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def in_wheel(wheel: zipfile.ZipFile, ending: str) -> bytes:
    (name,) = [n for n in wheel.namelist() if n.endswith(ending)]
    return wheel.read(name)


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "nanodistill").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"nanodistill/__init__.py", "nanodistill/py.typed"} <= package
    assert {n for n in wheel.namelist() if ".dist-info/" not in n} == package


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(in_wheel(wheel, "/METADATA"))
    assert metadata["Version"] == nanodistill.__version__
    assert metadata["License-Expression"] == "MIT"
    extras = {"cpu", "baseline", "cuda12", "cuda13", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    assert b"Copyright (c) 2026 NanoDistill contributors" in in_wheel(wheel, "/LICENSE")


def test_the_command_of_the_wheel_can_be_called(wheel: zipfile.ZipFile) -> None:
    entry = re.search(rb"^nanodistill=([\w.]+):(\w+)", in_wheel(wheel, "/entry_points.txt"), re.M)
    assert entry
    assert callable(vars(import_module(entry[1].decode()))[entry[2].decode()])


@pytest.mark.parametrize(
    ("requirement", "bad"),
    [("litellm", ["1.82.7", "1.82.8", "1.106.2", "1.106.10", "1.107.0"])],
)
def test_known_bad_releases_are_excluded(requirement: str, bad: list[str]) -> None:
    (specifier,) = [
        r.specifier for r in map(Requirement, PROJECT["dependencies"]) if r.name == requirement
    ]
    assert list(specifier.filter(bad)) == []


@pytest.mark.parametrize(("file", "asked"), PINNED.items())
def test_the_pins_are_a_choice_from_the_ranges(file: str, asked: list[str]) -> None:
    pinned: dict[str, list[str]] = {}
    for name, version in pins_in(text_of(file)):
        pinned.setdefault(name, []).append(version)
    for requirement in map(Requirement, asked):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not in {file}: just lock"
        allowed = list(requirement.specifier.filter(versions))
        assert allowed == versions, f"{file} has {versions} for {requirement}: just lock"


@pytest.mark.parametrize("file", PINNED)
def test_every_pin_has_hashes(file: str) -> None:
    text = text_of(file)
    blocks = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins_in(text)) > 25
    assert [b.split()[0] for b in blocks if "--hash=sha256:" not in b] == []


@pytest.mark.parametrize("file", PINNED)
def test_the_pins_name_no_host_and_no_path(file: str) -> None:
    assert re.findall(r".*(?:://|--index|--find-links|file:|\s/).*", text_of(file)) == []


def test_every_recipe_is_explained() -> None:
    explained = recipes()
    assert {"setup", "demo", "test", "synth", "train", "eval", "lock", "clean"} <= set(explained)
    assert [name for name, comment in explained.items() if not comment] == ["default"]


def test_recipes_call_commands_that_are_there() -> None:
    called = re.findall(r"\{\{ nanodistill \}\} (\S+)", (ROOT / "justfile").read_text())
    assert {"synth", "train", "eval"} <= set(called) <= set(cli.commands)


def test_the_readme_names_recipes_that_are_there() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:^|[`/])just ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert {"demo", "test", "lock"} <= named
    assert named <= set(recipes())


def test_continuous_integration_runs_the_readmes_own_command() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    (command,) = [line for line in readme if line.startswith("python3") and "just test" in line]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command
