"""`nanodistill export`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.conftest import TrainedRun, copied
from nanodistill.cli import run


def run_file(trained: TrainedRun, folder: Path) -> str:
    path = folder / "run.toml"
    told = {"name": "tiny", "seed": "none.jsonl", "instruction": "Sort the message, please.",
            "student": str(trained.model), "output_dir": str(trained.root), "metric": "exact",
            "max_new_tokens": 8}  # fmt: skip
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items()))
    return str(path)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_failed_gate_ends_with_1(
    llama: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight bits of random weights answer other letters."""
    fresh = copied(llama, tmp_path)
    asked = ["--to", "gguf", "--gguf-type", "q8_0", "--set", "export_tolerance=0", "--json"]
    assert run(["export", run_file(fresh, tmp_path), *asked]) == 1
    said = last_line(capsys)
    assert (said["command"], said["exit"]) == ("export", 1)
    assert "worse than the adapter by more than export_tolerance (0 points)" in said["error"]
    assert said["next"].startswith("Export with --gguf-type f16")
    assert not list(fresh.run.root.rglob("*.gguf"))


def test_nothing_trained_ends_with_2(
    llama: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", run_file(llama, tmp_path), "--set", f"output_dir={tmp_path}", "--json"]
    assert run(asked) == 2
    assert "no trained student yet" in last_line(capsys)["error"]
