"""`mlx_lm_kwargs`: every name means something, or the configuration is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanodistill.config import DistillationConfig, TrainingSettings
from nanodistill.config.mlx_config import FLAGS, cli_args, mlx_lm_config, yaml_text
from nanodistill.config.mlx_options import (
    OPTIMIZER_NAMES,
    OPTIMIZER_SETTINGS,
    REFUSED,
    SETTING_OF,
    MlxSettings,
    effective,
)
from nanodistill.errors import ConfigError


def config(**values: Any) -> DistillationConfig:
    rows = [{"input": "a", "output": "b"}]
    return DistillationConfig(name="a", seed=rows, instruction="Do the thing now.", **values)


def in_mlx_terms(**kwargs: Any) -> dict[str, Any]:
    return mlx_lm_config(*effective(config(mlx_lm_kwargs=kwargs)), 0, 100)


def refusal(**kwargs: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        config(mlx_lm_kwargs=kwargs)
    return str(refused.value)


@pytest.mark.parametrize(
    ("kwargs", "key", "value"),
    [
        ({"lora_alpha": 16, "lora_rank": 4}, "lora_parameters.scale", 4.0),
        ({"r": 4}, "lora_parameters.rank", 4),
        ({"scale": 3.5}, "lora_parameters.scale", 3.5),
        ({"lora_dropout": 0.05}, "lora_parameters.dropout", 0.05),
        ({"target_modules": ["q_proj"]}, "lora_parameters.keys", ["q_proj"]),
        ({"lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.1}}, "lora_parameters.rank", 2),
        ({"gradient_checkpointing": True}, "grad_checkpoint", True),
        ({"warmup_steps": 10}, "lr_schedule.warmup", 10),
        ({"warmup_ratio": 0.2}, "lr_schedule.warmup", 20),
        ({"weight_decay": 0.2}, "optimizer_config.adamw.weight_decay", 0.2),
        ({"use_dora": True}, "fine_tune_type", "dora"),
        ({"adam_beta_1": 0.8}, "optimizer_config.adamw.betas", [0.8, 0.999]),
        ({"adam_beta_2": 0.99}, "optimizer_config.adamw.betas", [0.9, 0.99]),
        ({"adam_epsilon": 1e-6}, "optimizer_config.adamw.eps", 1e-6),
        ({"optim": "sgd", "momentum": 0.9}, "optimizer_config.sgd.momentum", 0.9),
        ({"optimizer_config": {"adamw": {"eps": 1e-5}}}, "optimizer_config.adamw.eps", 1e-5),
        ({"gradient_accumulation_steps": 4}, "iters", 400),
        ({"num_layers": -1}, "num_layers", -1),
        ({"num_layers": 6}, "num_layers", 6),
        ({"steps_per_eval": 7}, "steps_per_eval", 7),
        ({"eval_steps": 7, "grad_accumulation_steps": 2}, "steps_per_eval", 14),
        ({"seed": 42}, "seed", 42),
        ({"mask_prompt": False}, "mask_prompt", False),
        ({"clear_cache_threshold": 1000}, "clear_cache_threshold", 1000),
        ({"lr_schedule": {"name": "step_decay", "arguments": [1, 0.5, 9]}},
         "lr_schedule.name", "step_decay"),
        ({"lr_scheduler_type": "cosine"}, "lr_schedule.arguments", [1e-5, 100, 0.0]),
    ],
)  # fmt: skip
def test_names_that_users_know_become_mlx_lms(
    kwargs: dict[str, Any], key: str, value: object
) -> None:
    found: Any = in_mlx_terms(**kwargs)
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_every_known_name_is_accepted_or_says_why_not() -> None:
    for name in SETTING_OF:
        assert "is not a parameter" not in refusal(**{name: object()})
    for name, why in REFUSED.items():
        assert why in refusal(**{name: "x"})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lora_alfa": 3}, "did you mean 'lora_a"),
        ({"num_warmup_steps": 3}, "num_warmup_steps: "),
        ({"cutoff_len": 3}, "cutoff_len: "),
        ({"lora_parameters": {"rang": 3}}, "lora_parameters: has no rang, did you mean 'rank'?"),
        ({"lora_parameters": 3}, "lora_parameters: is 3, should be a table"),
        ({"rank": 100}, "lora_rank is 100, must be 1 to 64"),
        ({"rank": 4, "r": 8}, "r = 8 contradicts lora_rank = 4"),
        ({"optimizer": "sgd", "betas": [0.9, 0.9]}, "sgd has no betas; it accepts dampening, mom"),
        ({"optimizer_config": {"adamw": 3}}, "optimizer_config.adamw: is 3, should be a table"),
        ({"betas": [0.9]}, "betas: is [0.9], should be two numbers"),
        ({"eps": "small"}, "eps: is 'small', should be a number"),
        ({"nesterov": 1, "optimizer": "muon"}, "nesterov: is 1, should be true or false"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1.0]}}, "takes 2 to 3 arguments"),
        ({"batch_size": "many"}, "batch_size: is 'many'"),
    ],
)
def test_what_does_not_hold_is_named(kwargs: dict[str, Any], message: str) -> None:
    assert message in refusal(**kwargs)


def test_all_problems_are_named_at_once() -> None:
    message = refusal(lora_alfa=3, model="x", rank=100)
    assert all(word in message for word in ("lora_alfa", "`student`", "must be 1 to 64"))


def test_upper_bounds_can_be_lifted() -> None:
    settings, _ = effective(config(allow_out_of_range=True, mlx_lm_kwargs={"rank": 100}))
    assert settings.lora_rank == 100


def test_kwargs_lie_over_the_fields() -> None:
    settings, beyond = effective(config(lora_rank=16, mlx_lm_kwargs={"rank": 4, "seed": 3}))
    assert (settings.lora_rank, beyond.seed, settings.mlx_lm_kwargs) == (4, 3, {})


def test_optimizer_settings_are_those_of_mlx() -> None:
    from nanodistill.training.mlx_setup import accepted_settings

    assert {name: accepted_settings(name) for name in OPTIMIZER_SETTINGS} == OPTIMIZER_SETTINGS
    known = {setting for settings in OPTIMIZER_SETTINGS.values() for setting in settings}
    assert known - {"weight_decay", "warmup_init"} <= OPTIMIZER_NAMES


def test_every_name_is_a_setting_that_exists() -> None:
    places = set(TrainingSettings.model_fields) | set(MlxSettings.model_fields) | OPTIMIZER_NAMES
    settings = set(SETTING_OF.values())
    assert settings - places == {"use_dora"}
    assert places - settings == {
        "all_layers", "allow_out_of_range", "mlx_lm_kwargs", "optimizer_config", "tokenizer_kwargs",
    }  # fmt: skip


def test_the_flags_are_mlx_lms(tmp_path: Path) -> None:
    from mlx_lm.lora import CONFIG_DEFAULTS, build_parser

    file = tmp_path / "lora.yaml"
    chosen = config(
        learning_rate=2e-4, lora_rank=4, batch_size=3, lr_scheduler="cosine", random_seed=9,
        gradient_checkpointing=True, mlx_lm_kwargs={"adam_beta_1": 0.5, "save_every": 5},
    )  # fmt: skip
    arguments = vars(build_parser().parse_args(chosen.get_mlx_lm_cli_args(file)))
    given = {name: value for name, value in arguments.items() if value not in (None, 0)}
    asked = chosen.get_mlx_lm_kwargs()
    assert given == {"config": str(file)} | {name: asked[name] for name in FLAGS if name in asked}
    assert set(asked) <= set(CONFIG_DEFAULTS)


def test_the_yaml_reads_back_as_mlx_lm_reads_it() -> None:
    import yaml  # type: ignore[import-untyped]
    from mlx_lm.lora import yaml_loader

    asked = in_mlx_terms(lr_scheduler="cosine", warmup_steps=3, learning_rate=1e-5)
    assert yaml.load(yaml_text(asked), yaml_loader) == asked


def test_flags_leave_out_what_only_the_file_takes() -> None:
    arguments = cli_args(in_mlx_terms(warmup_steps=3))
    assert [a for a in arguments if a.startswith("--")] == [
        "--fine-tune-type", "--optimizer", "--mask-prompt", "--num-layers", "--batch-size",
        "--iters", "--val-batches", "--learning-rate", "--grad-accumulation-steps",
        "--max-seq-length", "--seed",
    ]  # fmt: skip
