"""Ordinary slips get ordinary messages: the place, what is wrong, the way out, and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanodistill.cli import run as command

SEEDS = [{"input": f"message {n} about a thing", "output": "ab"[n % 2]} for n in range(6)]
GOOD = {
    "name": "run",
    "seed": "seeds.jsonl",
    "instruction": "Sort the messages into a and b.",
    "teacher": "python:mine.py:answer",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "seeds.jsonl").write_text("\n".join(map(json.dumps, SEEDS)))
    (tmp_path / "mine.py").write_text("def answer(text):\n    return 'a'\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(**fields: object) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in (GOOD | fields).items())


def plan(content: str | bytes) -> int:
    encoded = content.encode() if isinstance(content, str) else content
    Path("run.toml").write_bytes(encoded)
    return command(["plan", "run.toml"])


def test_what_is_good(folder: Path) -> None:
    assert plan(toml()) == 0
    assert plan(toml().encode("utf-8-sig")) == 0


@pytest.mark.parametrize(
    "text", ["Think about the message " * 15, "~10 words at most", "~nobody/else", "a\0b" * 90]
)
def test_a_prompt_that_could_be_a_path(folder: Path, text: str) -> None:
    assert plan(toml(custom_cot_system_prompt=text)) in (0, 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (toml().encode("utf-16"), "UTF-16"),
        (b"", "empty"),
        (b'{"name": "run"}', "JSON"),
        (b"name: run\n", "YAML"),
        (b"\x00\x01\x02", "NUL"),
        ("name = \u201crun\u201d\n", "straight quotes"),
        ('seed = "C:\\data\\seeds.jsonl"\n', "single quotes"),
        ('name = "a"\nname = "b"\n', "twice"),
        ("name = run\n", "quotes"),
        (toml(seed="~no-such-user-here/x.jsonl"), "no such user"),
        (toml(seed="x" * 5_000), "too long"),
        (toml(output_dir="a\0b"), "NUL"),
        (toml() + '[litellm_kwargs]\nseed = "42"\n', "without quotes"),
        (toml() + '[litellm_kwargs]\ntimeout = "60"\n', "without quotes"),
        (toml() + "[litellm_kwargs]\ntemperature = nan\n", "finite"),
        (toml() + '[litellm_kwargs]\napi_base = "localhost:11434"\n', "http://"),
        (toml() + "[litellm_kwargs]\napi_key = '\u201csk-1\u201d'\n", "quotes"),
        (toml(temperature=1e999), "temperature"),
    ],
)
def test_slips(
    folder: Path, content: str | bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(content) == 2
    said = capsys.readouterr()
    assert told in said.out + said.err


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("\u201csk-12345678\u201d", "quotes"),
        ("'sk-12345678'", "quotes"),
        ("sk-1234\n5678", "line break"),
        ("sk-12345678\u00e9", "copy it again"),
        ("Bearer sk-12345678", "Bearer"),
    ],
)
def test_keys_that_no_request_can_carry(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    told: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    Path("run.toml").write_text(toml(teacher="openai/gpt-4o-mini"))
    assert command(["synth", "run.toml"]) == 2
    said = capsys.readouterr()
    assert told in said.out + said.err
    assert "OPENAI_API_KEY" in said.out + said.err
    assert "12345678" not in said.out + said.err


VALUES = st.one_of(
    st.text(max_size=40), st.integers(-(10**30), 10**30), st.floats(), st.booleans(),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers()),
)  # fmt: skip
FIELDS = st.sampled_from(
    [
        "name", "seed", "instruction", "teacher", "student", "temperature", "output_dir", "labels",
        "custom_cot_system_prompt", "judge_rubric", "litellm_kwargs", "mlx_lm_kwargs", "test",
        "max_cost_usd", "thinking_format", "metric", "axes", "augment_factor", "val_split",
        "learning_rate", "teacher_price", "tokenizer_kwargs", "no_such_field",
    ]
)  # fmt: skip


@given(field=FIELDS, value=VALUES)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_value_of_a_field_is_a_fault_of_ours(folder: Path, field: str, value: object) -> None:
    from nanodistill import DistillationConfig
    from nanodistill.errors import InputError

    fields = {**GOOD, "seed": SEEDS, "teacher": "python:mine.py:answer", field: value}
    try:
        DistillationConfig(**fields)  # type: ignore[arg-type]
    except InputError:
        return


@given(content=st.binary(max_size=300))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_file_is_a_fault_of_ours(folder: Path, content: bytes) -> None:
    assert plan(content) in (0, 2)
