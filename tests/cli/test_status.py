"""Where a run stands, at each stage of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nanodistill.cli import run as cli
from nanodistill.config import DistillationConfig
from nanodistill.journal import Attempt, Call, StoredResponse, open_journal
from nanodistill.run_dir import RunFolder, write_json
from nanodistill.status import size, status_of
from nanodistill.types import Completion, Usage

KEY = "ab" * 32


def config(folder: Path) -> DistillationConfig:
    return DistillationConfig(
        name="run",
        seed=[{"input": "2+2", "output": "4"}],
        instruction="Answer with the sum.",
        output_dir=folder,
    )


def then(command: str) -> str:
    return f"nd {command}"


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    found = status_of(config(tmp_path), then)
    assert (found.stages, found.versions, found.disk, found.next) == ({}, (), {}, "nd synth")


def test_calls_are_summed_while_the_run_is_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    usage = Usage(prompt_tokens=10, completion_tokens=5)
    attempt = Attempt(1.0, "generate", "m", KEY, "first", "answered", usage=usage, cost_usd=0.25)
    answer = StoredResponse(KEY, "generate", Completion("hello", "stop", usage))
    with run.locked("synth"), open_journal(run.journal) as journal:
        journal.commit([Call(attempt, answer)])
        found = status_of(config(tmp_path), then)
    assert found.working == ("synthesis",)
    assert found.to_json()["calls"]["generate"]["made"] == 1
    assert found.to_json()["cost_usd"] == 0.25
    assert "synthesis in progress" in found.summary()


def test_an_unfinished_training_is_what_comes_next(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    entry = {"run": "abc", "dataset": "v0001-11111111", "student": "s", "train_on": "cot"}
    entry |= {"dataset_fingerprint": "f", "student_identity": "i"}
    write_json(run.training / "index.json", {"latest": "abc", "runs": [entry]})
    lines = [
        {"kind": "train", "update": 3, "total": 6, "loss": 1.5, "seconds_left": 90.0},
        {"kind": "valid", "update": 3, "loss": 1.25},
    ]
    metrics = run.training / "abc" / "metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with run.locked("train"):
        found = status_of(config(tmp_path), then)
    (going_on,) = found.trainings
    assert (going_on["state"], going_on["update"], going_on["total"]) == ("training", 3, 6)
    (table,) = [table for table in found.tables() if table.title == "Training runs"]
    assert table.rows == (
        ("abc", "v0001-11111111", "s", "training", "3 of 6", "1.5", "1.25", "1 min 30 s"),
    )
    (unfinished,) = status_of(config(tmp_path), then).trainings
    write_json(run.training / "abc" / "result.json", {"steps": 3})
    (ended,) = status_of(config(tmp_path), then).trainings
    assert (unfinished["state"], ended["state"]) == ("unfinished", "ended")


def test_sizes_for_people() -> None:
    assert [size(n) for n in (0, 812, 1_400_000, 2e9)] == ["0 B", "812 B", "1.4 MB", "2.0 GB"]


def test_the_next_command_keeps_what_was_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'name = "run"\ninstruction = "Answer with the sum."\nseed = [{input = "2+2", output = "4"}]'
    )
    assert cli(["status", str(file), "--set", f"output_dir={tmp_path / 'my runs'}", "--json"]) == 0
    following = json.loads(capsys.readouterr().out.splitlines()[-1])["next"]
    assert shlex.split(following)[2:] == [str(file), "--set", f"output_dir={tmp_path / 'my runs'}"]
