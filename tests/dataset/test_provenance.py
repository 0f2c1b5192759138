"""What a version tells the world: no key, no folder of this machine, no address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset.drafts import draft, trace
from nanodistill.config import DistillationConfig
from nanodistill.dataset import config_hash, public_config, public_name, write_version
from nanodistill.run_dir import RunFolder

KEY = "sk-abcdefghijklmnop"


def config_of(tmp_path: Path, **changes: object) -> DistillationConfig:
    values: dict[str, object] = {
        "name": "triage",
        "seed": str(tmp_path / "seeds.jsonl"),
        "instruction": "Sort the message into a queue.",
        "teacher": f"python:{tmp_path}/rules.py:answer",
        "verifier": f"{tmp_path}/checks.py:is_good",
        "output_dir": tmp_path,
        "litellm_kwargs": {
            "api_key": KEY,
            "api_base": "http://me:secret@10.0.0.7/v1",
            "top_p": 0.9,
            "user": "me@example.org",
            "extra_headers": {"X-Team": "me@example.org"},
        },
    }
    return DistillationConfig(**(values | changes))


def test_settings_are_shown_without_what_is_private(tmp_path: Path) -> None:
    shown = public_config(config_of(tmp_path))
    assert shown["teacher"] == "python:rules.py:answer"
    assert shown["verifier"] == "checks.py:is_good"
    assert shown["litellm_kwargs"] == {
        "api_key": "[redacted]",
        "api_base": "[not shown]",
        "top_p": 0.9,
        "user": "[not shown]",
        "extra_headers": "[not shown]",
    }
    assert shown["temperature"] == 0.7
    text = json.dumps(shown)
    for private in (str(tmp_path), KEY, "me@example.org", "secret", "output_dir", "max_memory_gb"):
        assert private not in text


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"temperature": 1.0}, True),
        ({"litellm_kwargs": {"api_base": "http://else"}}, True),
        ({"near_duplicate_threshold": 0.5}, True),
        ({"max_concurrency": 7}, False),
        ({"max_cost_usd": 3.0}, False),
        ({"lora_rank": 16}, False),
        ({"output_dir": "elsewhere"}, False),
        ({"seed": "elsewhere.jsonl"}, False),
        ({"teacher": "python:/elsewhere/rules.py:answer"}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_hash_of_the_settings_sees(
    tmp_path: Path, change: dict[str, object], counts: bool
) -> None:
    before, after = config_of(tmp_path), config_of(tmp_path, **change)
    assert (config_hash(before) != config_hash(after)) is counts


def test_names_without_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local-model").mkdir()
    for text, shown in {
        "claude-sonnet-4-5": "claude-sonnet-4-5",
        "openai/gpt-5": "openai/gpt-5",
        "mlx/org/model": "mlx/org/model",
        f"mlx/{tmp_path}/model.gguf": "mlx/model.gguf",
        "mlx/local-model": "mlx/local-model",
        "python:rules:answer": "python:rules:answer",
        "python:/a/b/rules.py:answer": "python:rules.py:answer",
        "~/model": "model",
        "": "",
        "Answer in two\nlines.": "Answer in two\nlines.",
    }.items():
        assert public_name(text) == shown


def test_no_secret_and_no_folder_in_any_file(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of(tmp_path)
    version = write_version(
        run,
        draft(
            [("train", trace(1, teacher=config.teacher))],
            teacher=config.teacher,
            config=public_config(config),
            config_hash=config_hash(config),
            prompts={"generate": f"Use {KEY} well."},
            notes=(f"Seeds are in {tmp_path}/seeds.jsonl.",),
            response_model=f"{tmp_path}/models.py:Queue",
        ),
    )
    texts = [path.read_bytes() for path in version.path.rglob("*") if path.is_file()]
    texts.append(json.dumps(list(version.rows("train"))).encode())
    for text in texts:
        for private in (KEY, str(tmp_path), "me@example.org", "10.0.0.7"):
            assert private.encode() not in text
    assert next(version.rows("train"))["teacher"] == "python:rules.py:answer"
    assert version.manifest.response_model == "models.py:Queue"
    assert version.manifest.notes == ("Seeds are in ~/seeds.jsonl.",)
