"""Defaults and ranges are those of the configuration analysis; problems come all at once."""

from __future__ import annotations

from typing import Any

import pytest

from nanodistill.config import (
    AdvancedConfig,
    DistillationConfig,
    PromptTemplates,
    get_system_defaults,
)
from nanodistill.config.training_fields import memory_limits
from nanodistill.errors import ConfigError

REQUIRED: dict[str, Any] = {
    "name": "run",
    "seed": [{"input": "2+2", "output": "4"}],
    "instruction": "Do the sum.",
}


def make(**fields: Any) -> DistillationConfig:
    return DistillationConfig(**(REQUIRED | fields))


DEFAULTS = {
    "teacher": "claude-sonnet-4-5",
    "student": "mlx-community/Llama-3-8B-Instruct-4bit",
    "augment_factor": 50,
    "output_dir": "./outputs",
    "response_model": None,
    "temperature": 0.7,
    "lora_rank": 8,
    "lora_layers": 4,
    "val_split": 0.2,
    "batch_size": 1,
    "learning_rate": 1e-5,
    "num_train_epochs": 1,
    "max_seq_length": 256,
    "cpu_capacity_percent": 0.8,
    "litellm_kwargs": {},
    "mlx_lm_kwargs": {},
    "max_retries": 3,
    "thinking_format": "xml",
}

RANGES = [
    ("temperature", 0.0, 2.0, -0.1, 2.1),
    ("lora_rank", 1, 64, 0, 65),
    ("lora_layers", 1, 32, 0, 33),
    ("val_split", 0.0, 0.5, -0.1, 0.51),
    ("batch_size", 1, 32, 0, 33),
    ("learning_rate", 1e-9, 0.999, 0.0, 1.0),
    ("num_train_epochs", 1, 10, 0, 11),
    ("max_seq_length", 32, 2048, 31, 2049),
    ("memory_hard_limit_gb", 2, 128, 1, 129),
    ("max_memory_gb", 2, 128, 1, 129),
    ("cpu_capacity_percent", 0.1, 1.0, 0.05, 1.1),
    ("augment_factor", 1, 500, 0, 501),
]


def test_defaults_are_the_analysis_own() -> None:
    config = make()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    limits = (config.max_memory_gb, config.memory_hard_limit_gb, config.cpu_capacity_percent)
    assert limits == get_system_defaults()


@pytest.mark.parametrize(("field", "low", "high", "under", "over"), RANGES)
def test_ranges(field: str, low: float, high: float, under: float, over: float) -> None:
    assert getattr(make(**{field: low}), field) == low
    assert getattr(make(**{field: high}), field) == high
    for value in (under, over):
        with pytest.raises(ConfigError, match=f"{field}: is {value}"):
            make(**{field: value})


def test_a_machine_with_room_may_lift_upper_bounds_but_not_lower_ones() -> None:
    assert make(max_seq_length=8192, allow_out_of_range=True).max_seq_length == 8192
    with pytest.raises(ConfigError, match="max_seq_length: is 16"):
        make(max_seq_length=16, allow_out_of_range=True)
    with pytest.raises(ConfigError, match="val_split"):
        make(val_split=1.5, allow_out_of_range=True)


def test_all_problems_come_at_once_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        make(lora_rnk=4, lora_rank=100, name="../escape", transport="carrier pigeon")
    text = str(caught.value)
    assert "lora_rnk: unknown key, did you mean 'lora_rank'?" in text
    assert "lora_rank: is 100, must be 1 to 64" in text
    assert "'../escape' is no safe folder name" in text
    assert "'carrier pigeon'" in text
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("name", ["", "a" * 101, "..", ".hidden", "a/b", "a b", "con", "-x"])
def test_names_that_are_no_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        make(name=name)


def test_an_automatic_memory_limit_gives_way_to_the_one_that_is_set() -> None:
    assert make(max_memory_gb=48).memory_hard_limit_gb == 48
    assert make(memory_hard_limit_gb=4).max_memory_gb == 4
    more: dict[str, Any]
    for more in ({}, {"lora_rank": 100}):
        with pytest.raises(ConfigError, match="memory_hard_limit_gb: is 6, must be at least") as e:
            make(max_memory_gb=8, memory_hard_limit_gb=6, **more)
        assert len(e.value.problems) == 1 + len(more)


def test_what_a_default_fills_does_not_count_as_set() -> None:
    assert "memory_hard_limit_gb" not in make(max_memory_gb=48).model_fields_set
    assert "lora_rank" in make(lora_rank=8).model_fields_set


def test_other_names_fill_the_same_fields_and_give_way_to_them() -> None:
    assert make(synthesis_temperature=0.1).temperature == 0.1
    advanced = AdvancedConfig(top_p=0.9, top_k=5, lora_alpha=4.0, gradient_clip=0.5)
    config = make(advanced_config=advanced, litellm_kwargs={"top_p": 0.2}, lora_alpha=7.0)
    assert config.litellm_kwargs == {"top_p": 0.2, "top_k": 5}
    assert (config.lora_alpha, config.max_grad_norm) == (7.0, 0.5)
    assert make(advanced_config=AdvancedConfig()) == make()
    prompts = PromptTemplates(cot_system="Think.")
    assert make(prompt_templates=prompts).custom_cot_system_prompt == "Think."
    assert make(prompt_templates=prompts).prompt_templates == prompts


def test_the_advanced_config_of_the_analysis_is_accepted_as_it_stands() -> None:
    advanced = AdvancedConfig(
        top_p=1.0, top_k=-1, frequency_penalty=0.0, presence_penalty=0.0,
        gradient_clip=1.0, warmup_steps=0, lr_scheduler="constant",
        lora_alpha=16.0, lora_dropout=0.05, target_modules=["q_proj", "v_proj"],
        memory_limit_gb=12, cpu_limit_percent=0.8,
    )  # fmt: skip
    config = make(advanced_config=advanced)
    sampling = {"top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    assert config.litellm_kwargs == sampling, "top_k = -1 is no limit, and is not sent"
    training = (config.max_grad_norm, config.warmup_steps, config.lr_scheduler)
    assert training == (1.0, 0, "constant")
    lora = (config.lora_alpha, config.lora_dropout, config.target_modules)
    assert lora == (16.0, 0.05, ["q_proj", "v_proj"])
    machine = (config.max_memory_gb, config.memory_hard_limit_gb, config.cpu_capacity_percent)
    assert machine == (12, 12, 0.8)


@pytest.mark.parametrize(("field", "near"), [("thinking_format", "xml"), ("metric", "exact")])
def test_a_name_that_is_none_is_told_with_those_there_are(field: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: is '{near}x', did you mean '{near}'"):
        make(**{field: f"{near}x"})
    assert getattr(make(**{field: "mine.py:Own"}), field) == "mine.py:Own"


def test_limits_of_memory_by_machine() -> None:
    assert [memory_limits(gb) for gb in (1, 8, 16, 36, 128)] == [
        (2, 2), (7, 7), (12, 12), (12, 12), (12, 12),
    ]  # fmt: skip


def test_problems_inside_a_bundle_name_the_bundle() -> None:
    with pytest.raises(ConfigError, match=r"advanced_config\.top_p: is 5"):
        make(advanced_config={"top_p": 5})
    with pytest.raises(ConfigError, match=r"prompt_templates\.cot: unknown key"):
        make(prompt_templates={"cot": "Think."})

    with pytest.raises(ConfigError, match="advanced_config: is 'high'"):
        make(advanced_config="high")


def test_litellm_parameters_that_would_break_a_promise_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as refused:
        make(litellm_kwargs={"n": 4, "stream": True, "top_p": 0.5})
    assert [str(problem) for problem in refused.value.problems] == [
        "litellm_kwargs.n: can't be set here: set `samples_per_input`",
        "litellm_kwargs.stream: can't be set here: answers are journaled whole",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("stream", True), ("messages", []), ("n", 2), ("model", "other"), ("tools", []),
     ("response_format", {}), ("stream_options", {}), ("max_tokens", 5), ("seed", "42"),
     ("max_completion_tokens", 5), ("temperature", True), ("top_k", 1.5), ("stop", 5)],
)  # fmt: skip
def test_what_goes_past_litellm_is_looked_at_too(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        make(litellm_kwargs={"extra_body": {name: value, "num_ctx": 4096, "mine": [1]}})
    assert [problem.where for problem in refused.value.problems] == [
        f"litellm_kwargs.extra_body.{name}"
    ]


def test_their_litellm_parameters_go_over_ours() -> None:
    config = make(temperature=0.3, litellm_kwargs={"temperature": 1.1, "timeout": 5})
    assert config.get_litellm_synthesis_kwargs()["temperature"] == 1.1
    assert config.get_litellm_kwargs()["timeout"] == 5
    two = make(max_output_tokens=99, litellm_kwargs={"max_completion_tokens": 7})
    assert two.get_litellm_kwargs().keys() & {"max_tokens", "max_completion_tokens"} == {
        "max_completion_tokens"
    }, "one limit, as it is sent"


def test_a_config_is_frozen_and_shows_no_key() -> None:
    config = make(litellm_kwargs={"api_key": "sk-canary-123", "max_tokens": 9})
    with pytest.raises(Exception, match="frozen"):
        config.name = "other"
    assert config.to_json()["litellm_kwargs"] == {"api_key": "[redacted]", "max_tokens": 9}
