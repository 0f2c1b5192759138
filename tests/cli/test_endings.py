"""How commands end: exit code, one line of JSON, no traceback for what a user can cause."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanodistill.cli import run

RUN_FILE = """\
name = "run"
seed = [{ input = "2+2", output = "4" }]
instruction = "Answer with the sum."
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN_FILE)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["synth", "nowhere.toml"], "There is no run file nowhere.toml"),
        (["synth"], "Missing argument 'RUN.toml'"),
        (["snyth", "x.toml"], "Did you mean 'synth'"),
        (["synth", "RUN", "--set", "lora_rnk=3"], "lora_rnk: unknown key, did you mean"),
        (["synth", "RUN", "--set", "augment_factor=0"], "augment_factor: is 0, must be 1 to 500"),
        (["synth", "RUN", "--frobnicate"], "No such option"),
    ],
)
def test_bad_input_ends_with_2_and_says_where(
    arguments: list[str], said: str, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run_file) if word == "RUN" else word for word in arguments]
    assert run(words) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_json_is_the_last_line_also_after_a_failure(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["synth", str(run_file), "--json", "--set", "batch_size=0"]) == 2
    lines = capsys.readouterr().out.splitlines()
    said = json.loads(lines[-1])
    assert len(lines) == 1
    assert (said["command"], said["exit"]) == ("synth", 2)
    assert "batch_size" in said["error"]


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["synth", "nowhere.toml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["synth", "--help"]])
def test_help_ends_well(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert "nanodistill" in capsys.readouterr().out


def test_sigterm_is_ctrl_c_before_any_work_listens_to_it() -> None:
    code = """
import os, signal, sys
from nanodistill import cli
cli.cli.main = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
sys.argv[1:] = ["synth", "run.toml"]
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 130
    assert "Go on with: " in ended.stderr
