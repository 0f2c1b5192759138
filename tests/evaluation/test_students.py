"""Several students of one dataset, on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evaluation.conftest import TinyRun
from evaluation.tiny import make_model
from nanodistill.cli import run
from nanodistill.students import expand_variants


def command(tiny: TinyRun, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    run_file = tiny.root / "run.toml"
    fields = tiny.config().model_dump(mode="json", exclude_unset=True)
    run_file.write_text("\n".join(f"{name} = {json.dumps(v)}" for name, v in fields.items()))
    code = run([words[0], str(run_file), *words[1:], "--json"])
    values: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == values["exit"]
    return values


def test_students_are_named_by_what_tells_them_apart(tiny: TinyRun) -> None:
    config = tiny.config()
    assert list(expand_variants(config, [], [])) == [config.student]
    assert list(expand_variants(config, ["a", "b", "a"], [])) == ["a", "b"]
    both = expand_variants(config, ["a", "b"], ["cot", "answer"])
    assert list(both) == [
        "a, trained on cot",
        "a, trained on answer",
        "b, trained on cot",
        "b, trained on answer",
    ]
    assert [(one.student, one.train_on) for one in both.values()][1] == ("a", "answer")
    assert expand_variants(config, [], ["cot"])["trained on cot"] is config


def test_each_way_of_training_is_judged_by_its_own_run(
    tiny: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.trained("r2", seed=2, train_on="answer")
    values = command(tiny, capsys, "eval", "--train-on", "cot", "--train-on", "answer")
    runs = {name: result["run"] for name, result in values["students"].items()}
    assert runs == {"trained on cot": "r1", "trained on answer": "r2"}
    assert command(tiny, capsys, "eval")["run"] == "r1"


def test_a_student_that_was_not_trained_is_an_error(
    tiny: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_model(tiny.root / "other", seed=5)
    values = command(tiny, capsys, "eval", "--student", str(other))
    assert values["exit"] == 2
    assert "no student trained on" in values["error"]


def test_students_are_trained_one_after_another(
    tiny: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--dry-run", "--train-on", "cot", "--train-on", "answer")
    values = command(tiny, capsys, "train", *words)
    assert set(values["students"]) == {"trained on cot", "trained on answer"}
    assert values["next"].endswith("--train-on cot --train-on answer")
