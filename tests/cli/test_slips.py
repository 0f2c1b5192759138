"""Slips in run files, --set and the environment: told by field, exit code 2, and no fault."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanodistill.cli import run
from nanodistill.config import DistillationConfig

HEAD = 'name = "run"\nseed = "seeds.jsonl"\ninstruction = "Answer with the sum."\n'
TEACHER = 'teacher = "python:teacher.py:answer"\nextract_policy = false\n'
SEEDS = "\n".join(f'{{"input": "{n}+{n}", "output": "{2 * n}"}}' for n in range(4))
FORGED = "fault of NanoDistill"
FIELDS = sorted(DistillationConfig.model_fields)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "seeds.jsonl").write_text(SEEDS)
    (tmp_path / "teacher.py").write_text("def answer(request): return '4'\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(folder: Path, text: str | bytes, *words: str, capsys: Any) -> tuple[int, str]:
    path = folder / "run.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    code = run(["plan", str(path), *words])
    return code, capsys.readouterr().err


LONG = "Think about the message and decide, in few words, what it is about. " * 5


@pytest.mark.parametrize("length", [100, 256, 300, 499, 501, 5000])
@pytest.mark.parametrize(
    "field", ["custom_cot_system_prompt", "custom_policy_extraction_prompt", "judge_rubric"]
)
def test_a_long_line_is_a_text(field: str, length: int, folder: Path, capsys: Any) -> None:
    text = ("Think. " * 1000)[:length].strip()
    assert told(folder, HEAD + TEACHER + f'{field} = "{text}"\n', capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    "text", ["~10 words at most", "~nobody says so", "./or/ and so on", "a\tb"]
)
def test_texts_that_begin_like_paths(text: str, folder: Path, capsys: Any) -> None:
    line = f"judge_rubric = {json.dumps(text)}\n"
    assert told(folder, HEAD + TEACHER + line, capsys=capsys) == (0, "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ("seed", "test", "training_data", "output_dir")
        for value in (
            "~no-such-user/x.jsonl", "loop/x.jsonl", "link/x.jsonl", "x" * 300 + ".jsonl",
            "C:\\temp\\new.jsonl".replace("\\t", "\t"), "a\0b.jsonl", "seeds.jsonl/below.jsonl",
        )
        if not (field == "output_dir" and value.startswith("link"))
    ]
    + [("output_dir", "seeds.jsonl"), ("seed", "folder"), ("seed", "link"), ("test", "loop")]
    + [("judge_rubric", "folder"), ("custom_cot_system_prompt", "~no-such-user/cot.md")]
    + [("custom_cot_system_prompt", "link"), ("judge_rubric", "loop")]
    + [("verifier", "~no-such-user/x.py:f")],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_told_by_field(
    field: str, value: str, folder: Path, capsys: Any
) -> None:
    lines = {"seed": '"seeds.jsonl"', field: json.dumps(value)}
    text = 'name = "run"\ninstruction = "Answer with the sum."\n' + TEACHER
    text += "".join(f"{name} = {line}\n" for name, line in lines.items())
    code, said = told(folder, text, capsys=capsys)
    assert (code, FORGED in said) == (2, False)
    assert field in said or Path(value).name in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_skipped(encoding: str, folder: Path, capsys: Any) -> None:
    (folder / "cot.md").write_text("Think.", encoding=encoding)
    text = (HEAD + TEACHER + 'custom_cot_system_prompt = "cot.md"\n').encode(encoding)
    assert told(folder, text, capsys=capsys)[0] == 0


@pytest.mark.parametrize("file", ["run.toml", "cot.md"])
@pytest.mark.parametrize(
    ("encoding", "names"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-32"), ("cp1252", "line")],
)
def test_another_encoding_is_named(
    file: str, encoding: str, names: str, folder: Path, capsys: Any
) -> None:
    text = HEAD + TEACHER + 'custom_cot_system_prompt = "cot.md"\n# caf\u00e9\n'
    (folder / "cot.md").write_text(text, encoding=encoding if file == "cot.md" else "utf-8")
    code, said = told(
        folder, text.encode(encoding if file == "run.toml" else "utf-8"), capsys=capsys
    )
    assert code == 2
    assert names in said
    assert "save it as UTF-8" in said
    assert file in said


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("metric = exact", "quotation marks"),
        ("metric = “exact”", "typographic"),
        ('output_dir = "C:\\Users\\me"', "single quotes"),
        ('name = "again"', "twice"),
        ('metric: "exact"', "YAML"),
        ("metric", 'name = "value"'),
        ("coverage = True", "true"),
        ("labels = None", "leave the line out"),
        ("random_seed = " + "9" * 5000, "TOML"),
        ("axes = " + "[" * 100_000, "nested"),
    ],
)
def test_toml_that_is_none_gets_a_hint(line: str, hint: str, folder: Path, capsys: Any) -> None:
    code, said = told(folder, HEAD + line + "\n", capsys=capsys)
    assert code == 2
    assert hint in said


def test_a_line_with_a_key_is_not_shown(folder: Path, capsys: Any) -> None:
    text = HEAD + "[litellm_kwargs]\napi_key = sk-secret-123456\n"
    assert "secret" not in told(folder, text, capsys=capsys)[1]


@pytest.mark.parametrize(
    ("content", "names"),
    [(b"", "empty"), (b"{}", "required"), (b'{"name": "x"}', "JSON"), (b"\0\1\2", "no text")],
)
def test_what_is_no_run_file(content: bytes, names: str, folder: Path, capsys: Any) -> None:
    code, said = told(folder, content, capsys=capsys)
    assert (code, names in said) == (2, content != b"{}")


@pytest.mark.parametrize(
    "place", ["folder", "link", "loop", "~no-such-user/run.toml", "x" * 300, "seeds.jsonl/r"]
)
def test_a_run_file_that_is_none(place: str, folder: Path, capsys: Any) -> None:
    assert run(["plan", place]) == 2
    assert FORGED not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", '"42"'), ("temperature", '"0.5"'), ("timeout", '"60"'), ("timeout", "0"),
        ("timeout", "-1"), ("top_p", "true"), ("max_tokens", "1.5"), ("max_tokens", "0"),
        ("n", "2"), ("stream", "true"), ("drop_params", '"true"'), ("stop", "5"),
        ("extra_headers", '"x"'), ("extra_headers", '{x = "a\\nb"}'), ("api_base", '"localhost:1"'),
        ("api_base", "5"), ("api_key", '"“sk-abc”"'), ("api_key", '"Bearer sk-abc"'),
        ("api_key", '"your-api-key"'), ("seed", "nan"), ("metadata", "2024-01-01"),
        ("whatever", "[inf]"), ("whatever", "{deep = [1979-05-27]}"),
    ],
)  # fmt: skip
def test_wrong_types_in_the_free_table(name: str, value: str, folder: Path, capsys: Any) -> None:
    text = HEAD + TEACHER + f"[litellm_kwargs]\n{name} = {value}\n"
    code, said = told(folder, text, capsys=capsys)
    assert code == 2
    assert f"{folder / 'run.toml'}:7: litellm_kwargs.{name}" in said
    assert "sk-abc" not in said


@pytest.mark.parametrize(
    "word",
    ["foo", "=1", "name.x=1", "lora_rnk=3", "a..b=1", "seed=[1", "litellm_kwargs=5", "self=1",
     "batch_size=true", "temperature=nan", "random_seed=99999999999999999999", "labels=a,b",
     "axes={a=5}", "name=../x", "name=con", "name=com1.txt", "name=a/b", "name=été", "name=x.",
     "name=" + "x" * 101, "advanced_config=5", "prompt_templates=[1]", "teacher= ",
     "mlx_lm_kwargs={optimizer=['a']}", "mlx_lm_kwargs={betas=5, beta_1=0.1}",
     "max_memory_gb='x'", "tokenizer_kwargs={a=2024-01-01}", "instruction=\udcff" + "x" * 20],
)  # fmt: skip
def test_slips_of_set(word: str, folder: Path, capsys: Any) -> None:
    code, said = told(folder, HEAD + TEACHER, "--set", word, capsys=capsys)
    assert (code, FORGED in said) == (2, False)


BROKEN = ["def f(:", "1 / 0", "import no_such_module_at_all", "raise KeyError(3)", "x = 1"]


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize("name", ["mine.py:f", "mine:f"])
@pytest.mark.parametrize(
    "field", ["verifier", "response_parser", "response_model", "thinking_format", "teacher"]
)
def test_code_of_ones_own_that_is_broken(
    field: str, name: str, code: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (folder / "mine.py").write_text(code)
    kept = TEACHER if field != "teacher" else "extract_policy = false\n"
    prefix = "python:" if field == "teacher" else ""
    code_, said = told(folder, HEAD + kept + f'{field} = "{prefix}{name}"\n', capsys=capsys)
    assert (code_, FORGED in said) == (2, False)
    assert field in said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["~", "~x/y", ".", "/", "\0", "a:b", ":", ".py:x", "python:", "mlx/",
                       "x" * 300])
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8) | st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(st.dictionaries(st.sampled_from([*FIELDS, "advanced_config", "prompt_templates"]), JSON,
                       min_size=1, max_size=3))  # fmt: skip
def test_no_configuration_is_a_fault_of_ours(
    folder: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any]
) -> None:
    """In any form that TOML has: what a user can write is planned, or refused with its field."""
    base = {"name": "run", "seed": str(folder / "seeds.jsonl"), "instruction": "Answer the sum.",
            "teacher": f"python:{folder / 'teacher.py'}:answer",
            "extract_policy": False}  # fmt: skip
    lines = [f"{json.dumps(name)} = {toml(value)}" for name, value in (base | values).items()]
    path = folder / "run.toml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    code = run(["plan", str(path)])
    said = capsys.readouterr().err
    assert (code in (0, 2), FORGED in said) == (True, False), said[-800:]


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(st.binary(max_size=80), st.integers(0, 90))
def test_no_bytes_in_a_run_file_are_a_fault_of_ours(
    folder: Path, capsys: pytest.CaptureFixture[str], noise: bytes, place: int
) -> None:
    content = (HEAD + TEACHER).encode()
    (folder / "run.toml").write_bytes(content[:place] + noise + content[place:])
    assert run(["plan", str(folder / "run.toml")]) in (0, 2)
    assert FORGED not in capsys.readouterr().err


def toml(value: Any) -> str:
    """`value` as TOML; what TOML has no word for as text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return json.dumps(value)
    return "0" if value is None else str(value).lower()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_files_without_the_right_to_read(folder: Path, capsys: Any) -> None:
    (folder / "seeds.jsonl").chmod(0)
    code, said = told(folder, HEAD + TEACHER, capsys=capsys)
    assert (code, FORGED in said) == (2, False)


def test_a_run_folder_that_is_a_file(folder: Path, capsys: Any) -> None:
    (folder / "outputs").mkdir()
    (folder / "outputs" / "run").write_text("")
    code, said = told(folder, HEAD + TEACHER, capsys=capsys)
    assert code == 2
    assert "is a file" in said


def test_json_is_json_on_a_terminal_that_has_no_umlauts(folder: Path) -> None:
    code = "from nanodistill.cli import main; main()"
    words = [sys.executable, "-c", code, "plan", "d\u00e9\udcff.toml", "--json"]
    ended = subprocess.run(
        words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False
    )
    assert ended.returncode == 2
    assert "d\u00e9" in json.loads(ended.stdout)["error"]
