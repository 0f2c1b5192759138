"""`eval --teacher`: the teacher answers the student's test, over real HTTP, paid for once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from providers.server import TeacherServer, status

from evaluation.conftest import TinyRun
from nanodistill.cli import run
from nanodistill.config import DistillationConfig
from nanodistill.journal import read_journal


@pytest.fixture
def golds(tiny: TinyRun) -> dict[str, str]:
    return {row["input"]: row["output"] for row in tiny.dataset.rows("test")}


def asked(tiny: TinyRun, server: TeacherServer, **fields: Any) -> DistillationConfig:
    return tiny.config(
        teacher="openai/served",
        litellm_kwargs={"api_base": server.url},
        teacher_price={"input": 1000.0, "output": 1000.0},
        **fields,
    )


def command(
    tiny: TinyRun, config: DistillationConfig, capsys: pytest.CaptureFixture[str], *words: str
) -> dict[str, Any]:
    file = tiny.root / "run.toml"
    fields = config.model_dump(mode="json", exclude_unset=True)
    tables = [name for name, value in fields.items() if isinstance(value, dict)]
    lines = [f"{name} = {json.dumps(v)}" for name, v in fields.items() if name not in tables]
    for name in tables:
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in fields[name].items())]
    file.write_text("\n".join(lines))
    code = run(["eval", str(file), *words, "--json"])
    values: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == values["exit"]
    return values


def test_the_teacher_stands_beside_the_student_and_is_paid_for_once(
    tiny: TinyRun,
    teacher_server: TeacherServer,
    golds: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher_server.set(answer=lambda call: f" {golds[call.user].capitalize()}.")
    config = asked(tiny, teacher_server)
    values = command(tiny, config, capsys, "--teacher")
    teacher = values["models"]["teacher"]
    assert teacher["value"] == 1
    spent = teacher["usd_per_1000"] * len(golds) / 1000
    with read_journal(tiny.run.journal) as journal:
        assert journal.sums()["test"].cost_usd == pytest.approx(spent)
    assert len(teacher_server.calls) == len(golds)
    for call in teacher_server.calls:
        assert call.body["temperature"] == 0
        assert "Sort the message into billing or bug." in call.body["messages"][0]["content"]
    again = command(tiny, config, capsys, "--teacher")
    assert again["models"]["teacher"] == teacher
    assert len(teacher_server.calls) == len(golds)


def test_without_the_word_nobody_is_asked(
    tiny: TinyRun, teacher_server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    values = command(tiny, asked(tiny, teacher_server), capsys)
    assert "teacher" not in values["models"]
    assert teacher_server.calls == []


def test_the_runs_budget_holds_and_what_was_answered_is_kept(
    tiny: TinyRun,
    teacher_server: TeacherServer,
    golds: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher_server.set(answer=lambda call: golds[call.user])
    values = command(tiny, asked(tiny, teacher_server, max_calls=4), capsys, "--teacher")
    assert values["exit"] == 3
    assert len(teacher_server.calls) == 4
    values = command(tiny, asked(tiny, teacher_server), capsys, "--teacher")
    assert values["models"]["teacher"]["value"] == 1
    assert len(teacher_server.calls) == len(golds)


def test_a_bad_key_stops_before_the_student_is_loaded(
    tiny: TinyRun, teacher_server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher_server.set(always=status(401))
    values = command(tiny, asked(tiny, teacher_server, max_concurrency=1), capsys, "--teacher")
    assert values["exit"] == 3
    assert len(teacher_server.calls) == 1


def test_a_template_for_generation_by_chat_is_no_hindrance(
    tiny: TinyRun,
    teacher_server: TeacherServer,
    golds: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher_server.set(answer=lambda call: golds[call.user])
    config = asked(
        tiny,
        teacher_server,
        generation="chat",
        custom_synthetic_generation_prompt="Write about {label}.",
    )
    assert command(tiny, config, capsys, "--teacher")["models"]["teacher"]["value"] == 1
