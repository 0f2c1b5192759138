"""Secrets by name and by value."""

from __future__ import annotations

import pytest

from nanodistill.secrets import Redactor, is_secret_name, redacted


@pytest.mark.parametrize(
    "name", ["api_key", "OPENAI_API_KEY", "HF_TOKEN", "aws_secret_access_key", "Authorization"]
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_completion_tokens", "stop_token_ids", "model", "prompt_tokens"]
)
def test_names_that_hold_no_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_tables_are_blanked_at_any_depth() -> None:
    shown = redacted({"extra_headers": {"x-api-key": "abc"}, "list": [{"token": "t"}], "n": 1})
    assert shown == {
        "extra_headers": {"x-api-key": "[redacted]"},
        "list": [{"token": "[redacted]"}],
        "n": 1,
    }


def test_a_known_secret_leaves_any_text() -> None:
    redact = Redactor.of({"api_key": "sk-canary-1"}, {"MY_TOKEN": "canary-22", "HOME": "/home/me"})
    assert redact("bad key sk-canary-1, canary-22 at /home/me") == (
        "bad key [redacted], [redacted] at /home/me"
    )
    assert Redactor([])("nothing known") == "nothing known"
