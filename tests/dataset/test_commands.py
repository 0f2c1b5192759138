"""`dataset show|verify|diff` on a run and on a folder by itself, as it comes from the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataset.drafts import draft, placed
from nanodistill.cli import run as nanodistill
from nanodistill.dataset import DatasetVersion, write_version
from nanodistill.run_dir import RunFolder

RUN_FILE = """\
name = "triage"
seed = "there-is-no-such-file.jsonl"
instruction = "Say whether the word is an animal or a plant."
output_dir = "outputs"
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    (tmp_path / "run.toml").write_text(RUN_FILE)
    return str(tmp_path / "run.toml")


@pytest.fixture
def first(run: RunFolder) -> DatasetVersion:
    return write_version(run, draft())


@pytest.fixture
def second(run: RunFolder, first: DatasetVersion) -> DatasetVersion:
    return write_version(run, draft(placed(train=9)))


def said(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert nanodistill(["dataset", *map(str, words), "--json"]) == code
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def test_a_run_and_a_folder_are_shown(
    run_file: str,
    first: DatasetVersion,
    second: DatasetVersion,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said(capsys, "show", run_file)["name"] == second.name
    assert said(capsys, "show", run_file, "v0001")["name"] == first.name
    assert said(capsys, "show", first.path)["fingerprint"] == first.fingerprint


def test_verify_takes_either_too(
    run_file: str, first: DatasetVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "verify", run_file)["version"] == first.name
    assert said(capsys, "verify", first.path)["rows"] == 12
    file = first.path / "data" / "valid-00000-of-00001.parquet"
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(changed)
    assert file.name in said(capsys, "verify", first.path, code=1)["error"]


def test_two_versions_or_two_folders_are_compared(
    run_file: str,
    first: DatasetVersion,
    second: DatasetVersion,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_run = said(capsys, "diff", run_file)
    assert len(of_run["came"]) == 1
    of_folders = said(capsys, "diff", first.path, second.path)
    assert {**of_folders, "command": ""} == {**of_run, "command": ""}
    assert len(said(capsys, "diff", second.path, first.path)["went"]) == 1


def test_one_version_has_nothing_to_be_compared_with(
    run_file: str, first: DatasetVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "and a diff takes two" in said(capsys, "diff", run_file, code=2)["error"]
    assert "with one other" in said(capsys, "diff", first.path, code=2)["error"]


def test_a_folder_that_holds_no_version_is_said(
    run: RunFolder, first: DatasetVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no dataset version" in said(capsys, "show", run.root, code=2)["error"]
