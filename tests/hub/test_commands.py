"""The commands from end to end, in processes of their own, where no seed file is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import make_dataset, make_model, some_rows

from hub.conftest import environment
from hub.small_hub import SmallHub
from nanodistill.dataset import DatasetVersion
from nanodistill.run_dir import RunFolder

REPO = "owner/messages"
RUN_FILE = """\
name = "triage"
seed = "there-is-no-such-file.jsonl"
instruction = "Sort the message into billing or bug."
student = "model"
output_dir = "outputs"
thinking_format = "none"
"""
COMMAND = "from nanodistill.cli import main; main()"
LOADING = """
import json
from datasets import load_dataset
rows = load_dataset("owner/messages")
again = load_dataset("owner/messages", revision="{tag}", split="test")
print(json.dumps([{{name: len(split) for name, split in rows.items()}}, again[0]["output"]]))
"""


@pytest.fixture
def version(tmp_path: Path) -> DatasetVersion:
    """Of a run whose run file lies in `tmp_path`."""
    (tmp_path / "run.toml").write_text(RUN_FILE)
    make_model(tmp_path / "model")
    return make_dataset(RunFolder(tmp_path / "outputs" / "triage"), some_rows())


def python(small: SmallHub, at: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=at,
        env=environment(small, at / "home"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def nanodistill(small: SmallHub, at: Path, *words: str, code: int = 0) -> dict[str, Any]:
    ended = python(small, at, "-c", COMMAND, *words, "--json")
    assert ended.returncode == code, ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


def test_from_one_machine_to_another(
    small_hub: SmallHub, version: DatasetVersion, tmp_path: Path
) -> None:
    pushed = nanodistill(small_hub, tmp_path, "push", "run.toml", REPO)
    assert (pushed["tag"], pushed["private"]) == (version.name, True)

    loaded = python(small_hub, tmp_path, "-c", LOADING.format(tag=version.name))
    assert loaded.returncode == 0, loaded.stderr
    counts = {"train": 5, "valid": 2, "test": 6}
    assert json.loads(loaded.stdout.splitlines()[-1])[0] == counts

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.toml").write_text(RUN_FILE)
    (tmp_path / "model").rename(elsewhere / "model")
    named = f"{REPO}@{version.name}"
    pulled = nanodistill(small_hub, elsewhere, "pull", named, "--into", "data")
    assert pulled["fingerprint"] == version.fingerprint
    planned = nanodistill(
        small_hub, elsewhere, "train", "run.toml", "--dataset", named, "--dry-run"
    )
    assert planned["dataset"]["fingerprint"] == version.fingerprint
    assert planned["rows"]["train"] == 5
    missing = nanodistill(small_hub, elsewhere, "pull", "owner/none", "--into", "x", code=2)
    assert "has no dataset owner/none" in missing["error"]
