from __future__ import annotations

import os
from typing import Any

import pytest

from nanodistill.errors import ConfigError
from nanodistill.providers.factory import NO_KEY, open_provider, travel_settings
from nanodistill.providers.model_resolution import resolve
from nanodistill.providers.teacher_validation import check_teacher
from providers.opened import config


@pytest.fixture(autouse=True)
def _no_keys_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL")):
            monkeypatch.delenv(name)


def told(teacher: str, **kwargs: Any) -> str:
    """What is wrong with a teacher; empty if nothing is."""
    fields = {"structured_output": kwargs.pop("structured_output", "auto")}
    if "field" in kwargs:
        fields["temperature"] = kwargs.pop("field")
    try:
        check_teacher(config(teacher=teacher, litellm_kwargs=kwargs, **fields))
    except ConfigError as wrong:
        return str(wrong)
    return ""


@pytest.mark.parametrize(
    ("teacher", "variable"),
    [
        ("gpt-4o-mini", "OPENAI_API_KEY"),
        ("openai/any", "OPENAI_API_KEY"),
        ("claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("anthropic/claude-x", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
        ("groq/any", "GROQ_API_KEY"),
        ("openrouter/a/b", "OPENROUTER_API_KEY"),
        ("poe/any", "POE_API_KEY"),
    ],
)
def test_a_missing_key_is_named(
    teacher: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variable in told(teacher)
    assert told(teacher, api_key="sk-given-here") == ""
    monkeypatch.setenv(variable, "sk-in-the-environment")
    assert told(teacher) == ""


@pytest.mark.parametrize(
    "teacher",
    ["ollama/any", "ollama_chat/any", "lm_studio/any", "hosted_vllm/any", "llamafile/any",
     "bedrock/anthropic.claude-3-haiku-20240307-v1:0", "vertex_ai/gemini-2.5-flash", "mlx/any"],
)  # fmt: skip
def test_teachers_that_need_no_key_or_not_one_key(teacher: str) -> None:
    assert told(teacher) == ""


@pytest.mark.parametrize("teacher", ["openai/any", "anthropic/claude-x", "groq/any"])
def test_behind_a_base_url_no_key_is_needed(teacher: str) -> None:
    base = {"api_base": "http://127.0.0.1:9/v1"}
    assert told(teacher, **base) == ""
    assert travel_settings(resolve(teacher, base), base)["api_key"] == NO_KEY


def test_a_base_url_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:secret@127.0.0.1:9/v1/")
    resolved = resolve("openai/any", {})
    assert resolved.endpoint == "openai http://127.0.0.1:9/v1"
    assert told("openai/any") == ""


def test_the_environments_key_is_used_behind_a_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-in-the-environment")
    base = {"api_base": "http://127.0.0.1:9/v1"}
    assert "api_key" not in travel_settings(resolve("openai/any", base), base)


def test_an_unknown_model_names_the_nearest() -> None:
    assert "did you mean 'claude-sonnet-4-5'" in told("claud-sonnet-4-5")
    assert "PROVIDER/MODEL" in told("zzzzzzzzzzzzzzzzzzzzzz")
    assert "'openai/my-model'" in told("my-model", api_base="http://127.0.0.1:9/v1")


def test_endpoints_differ_by_provider_and_set_base_url() -> None:
    assert resolve("groq/any", {}).endpoint == "groq"
    base = {"api_base": "http://127.0.0.1:9/v1"}
    assert resolve("openai/any", base).endpoint == "openai http://127.0.0.1:9/v1"


def test_parameters_that_the_model_does_not_take() -> None:
    wrong = told("claude-sonnet-4-5", api_key="k" * 9, seed=3, frequency_penalty=0.5)
    assert "litellm_kwargs.seed" in wrong
    assert "litellm_kwargs.frequency_penalty" in wrong
    assert "drop_params = true" in wrong
    dropped = {"seed": 3, "drop_params": True}
    assert told("claude-sonnet-4-5", api_key="k" * 9, **dropped) == ""
    assert told("claude-sonnet-4-5", api_key="k" * 9, seed=3, allowed_openai_params=["seed"]) == ""


def test_values_that_the_model_does_not_take() -> None:
    wrong = told("openai/gpt-5", api_key="k" * 9, temperature=0.5)
    assert "litellm_kwargs.temperature" in wrong
    assert "temperature: " in told("openai/gpt-5", api_key="k" * 9, field=0.5)
    assert told("openai/gpt-5", api_key="k" * 9) == ""
    assert told("openai/gpt-5", api_key="k" * 9, temperature=1) == ""


def test_parameters_that_nobody_knows_name_the_nearest() -> None:
    wrong = told("openai/any", api_key="k" * 9, temprature=0.5, flux_capacitor=1)
    assert "litellm_kwargs.temprature" in wrong
    assert "did you mean 'temperature'" in wrong
    assert "litellm_kwargs.flux_capacitor" in wrong
    assert "extra_body" in wrong
    assert told("openai/any", api_key="k" * 9, extra_body={"flux_capacitor": 1}) == ""


def test_usual_parameters_are_known() -> None:
    usual = {
        "top_p": 1, "top_k": 1, "min_p": 0.1, "seed": 1, "stop": ["x"], "max_tokens": 9,
        "timeout": 9,
        "extra_headers": {"a": "b"}, "extra_body": {"a": 1}, "organization": "o",
        "aws_region_name": "r", "vertex_project": "p", "repetition_penalty": 1.1, "num_ctx": 9,
        "safe_prompt": True, "api_version": "v", "ssl_verify": False,
    }  # fmt: skip
    assert told("openai/any", api_key="k" * 9, **usual) == ""


def test_what_instructor_can_not_be_told() -> None:
    def wrong(**given: Any) -> str:
        base = {"api_base": "http://127.0.0.1:9/v1"}
        try:
            check_teacher(config(litellm_kwargs=base, instructor_kwargs=given))
        except ConfigError as refused:
            return str(refused)
        return ""

    assert wrong(mode="JSON", strict=False) == ""
    assert "instructor_kwargs.max_retries" in wrong(max_retries=3)
    assert "instructor_kwargs.temperature" in wrong(temperature=1)
    assert "did you mean 'MD_JSON'" in wrong(mode="MDJSON")
    assert "ANTHROPIC_TOOLS can't be used" in wrong(mode="anthropic_tools")


def test_functions(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("def answer(text): return text\nnumber = 3\n")
    assert told(f"python:{tmp_path}/mine.py:answer") == ""
    assert "is a int and no function" in told(f"python:{tmp_path}/mine.py:number")
    assert "no 'other'" in told(f"python:{tmp_path}/mine.py:other")


def test_opening_checks_first() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        open_provider(config(teacher="gpt-4o-mini"))


SERVER = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    "key",
    ["“sk-abc123456”", '"sk-abc123456"', "'sk-abc123456'", "sk-abc\n123456", "sk abc123456",
     "Bearer sk-abc123456", "sk-abc\u200b123456", "sk-abc123456é"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("teacher", "variable"),
    [
        ("openai/any", "OPENAI_API_KEY"),
        ("claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.0-flash", "GEMINI_API_KEY"),
        ("bedrock/anthropic.claude-v2", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_key_that_can_be_none_is_named_with_its_variable(
    key: str, teacher: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, key)
    said = told(teacher)
    assert variable in said
    assert "abc" not in said
    if teacher == "openai/any":
        assert "OPENAI_API_KEY" in told(teacher, api_base=SERVER)
        assert "OPENAI_API_KEY" not in told(teacher, api_key="sk-in-its-place")


@pytest.mark.parametrize("key", ["sk-...", "your-api-key", "<your-key>", "$OPENAI_API_KEY", "…"])
def test_a_placeholder_is_named_but_before_a_server_of_ones_own(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert "OPENAI_API_KEY" in told("openai/any")
    assert told("openai/any", api_base=SERVER) == "" or not key.isascii()
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    assert told("openai/any") == ""


@pytest.mark.parametrize("ends", ["\n", "\r\n", " \t", "  "])
def test_white_space_at_the_ends_of_a_key_is_taken_off(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" sk-abc123456{ends}")
    assert told("openai/any") == ""
    assert os.environ["OPENAI_API_KEY"] == "sk-abc123456"
    assert config(litellm_kwargs={"api_key": f"sk-x{ends}"}).litellm_kwargs["api_key"] == "sk-x"
    monkeypatch.setenv("OPENAI_API_KEY", ends)
    assert "no API key for openai" in told("openai/any")


@pytest.mark.parametrize(
    "base",
    ["localhost:11434", "http://127.0.0.1:8000/v1/chat/completions", '"http://h/v1"', "http://[::1",
     "http://h:99999/v1", "ftp://h/v1", "http:///v1", "http://h /v1", "http://h/v1/completions/"],
)  # fmt: skip
def test_an_address_that_is_none_is_named_where_it_stands(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "litellm_kwargs.api_base" in told("openai/any", api_base=base)
    assert "litellm_kwargs.base_url" in told("openai/any", base_url=base)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc123456")
    monkeypatch.setenv("OPENAI_BASE_URL", base)
    assert "OPENAI_BASE_URL" in told("openai/any")


@pytest.mark.parametrize("proxy", ["http://[bad", "http://h:99999", "socks5://h:1", "x://h", "a b"])
def test_a_proxy_that_is_none_is_named_with_its_variable(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    assert "http_proxy" in told("openai/any", api_base=SERVER)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert told("openai/any", api_base=SERVER) == ""
