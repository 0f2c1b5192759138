"""doctor names keys and never shows them."""

from __future__ import annotations

import json

import pytest

from nanodistill.cli import run
from nanodistill.system_report import inspect_system


def test_keys_are_named_and_not_shown() -> None:
    found = inspect_system({"OPENAI_API_KEY": "sk-canary-5", "HF_TOKEN": "", "HOME": "/home/me"})
    assert found.keys == ("OPENAI_API_KEY",)
    assert "sk-canary-5" not in f"{found.to_json()} {found.table()}"


def test_the_machine_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out.splitlines()[-1])
    assert said["memory_gb"]["memory"] > 0
    assert said["blas"]["said"] in " ".join(shown.err.split())
    assert set(said["models"]) == {"smollm2-135m"}
