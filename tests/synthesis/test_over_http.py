"""The whole of synthesis against a real server over HTTP, by both transports."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from providers.server import Call, TeacherServer, truncated

from nanodistill.dataset.markdown import cell
from nanodistill.synthesis import SynthesisResult, synthesize
from nanodistill.types import Request
from synthesis.runs import assert_adds_up, config_in, rejected_of, rows_of
from synthesis.writer import LABELS, Writer, right_label

KEY = "sk-canary-0123456789abcdef"


def stage_of(call: Call) -> str:
    """What a call is for, by what it looks like."""
    asked = (call.format_schema or {}).get("properties", {})
    if "examples" in asked:
        return "generate"
    if "task_description" in asked:
        return "policy"
    return "blind" if call.body["temperature"] == 0 else "trace"


def answering(teacher: Writer) -> Any:
    """A server's `answer` that has the teacher say it."""

    def answer(call: Call) -> str:
        messages = tuple(call.body["messages"])
        request = Request(stage_of(call), "http", "any", messages, schema=call.format_schema)
        said = teacher(request)
        return said if isinstance(said, str) else json.dumps(said)

    return answer


def run_against(server: TeacherServer, folder: Path, **fields: Any) -> SynthesisResult:
    kwargs = {"api_base": server.url, "api_key": KEY}
    config = config_in(folder, teacher="openai/any", litellm_kwargs=kwargs, **fields)
    result = anyio.run(lambda: synthesize(config))
    assert_adds_up(result)
    return result


@pytest.mark.parametrize("transport", ["auto", "litellm"])
def test_from_seeds_to_a_version(
    tmp_path: Path, teacher_server: TeacherServer, transport: str
) -> None:
    teacher = Writer(short=0.2)
    teacher_server.set(answer=answering(teacher))
    teacher_server.next(truncated("{"))
    result = run_against(teacher_server, tmp_path, transport=transport)
    assert result.kept == 72
    assert Counter(row["output"] for row in rows_of(result)) == dict.fromkeys(LABELS, 18)
    assert all(row["thinking"] for row in rows_of(result))
    assert result.usage.completion_tokens > 0
    assert result.calls["made"] == teacher_server.total
    assert max(teacher_server.counts.values()) == 1

    again = run_against(teacher_server, tmp_path, transport=transport)
    assert again.calls["made"] == 0
    assert again.to_json()["dataset"] == result.to_json()["dataset"]
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_server_that_repeats_itself_mislabels_leaks_and_sends_short_batches(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    leak = "The lamp from last week came in three pieces, and one of them is not ours at all."
    teacher = Writer(
        repeats=0.15, mislabels=0.2, leaks=leak.upper(), leak_share=0.15, short=0.4, broken=0.1
    )
    teacher_server.set(answer=answering(teacher))
    test = [{"input": leak, "output": "shipping"}]
    result = run_against(teacher_server, tmp_path, test=test, check_labels=True)
    rows = rows_of(result)
    assert result.kept == len(rows) == 72
    assert Counter(row["output"] for row in rows) == dict.fromkeys(LABELS, 18)
    assert all(right_label(row["input"]) == row["output"] for row in rows)
    assert len({row["input"] for row in rows}) == 72
    assert not any("lamp" in row["input"].lower() for row in rows)
    reasons = {"duplicate", "label_disagreement", "contaminated", "missing", "malformed"}
    assert result.rejected.keys() == reasons
    assert min(result.rejected.values()) >= 3
    assert all(row["input"] == leak.upper() for row in rejected_of(result, "contaminated"))
    assert result.dataset is not None
    card = (result.dataset.path / "README.md").read_text(encoding="utf-8")
    for reason, n in result.rejected.items():
        assert f"| {cell(reason)} | {n} |" in card
    assert f"| contamination rejected | {result.rejected['contaminated']} rows" in card
    assert f"| duplicates rejected | {result.rejected['duplicate']} exact" in card
