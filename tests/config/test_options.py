"""`distill`'s signature says what the configuration says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic_core import PydanticUndefined

from nanodistill.api import distill
from nanodistill.config import DistillationConfig
from nanodistill.config.distill_options import DistillOptions
from nanodistill.errors import ConfigError

OTHER_NAMES = {"synthesis_temperature", "advanced_config", "prompt_templates"}


def bare(annotation: Any) -> Any:
    """The annotation without the ranges of its values."""
    return dict[str, float] if str(annotation).startswith("dict[str, typing.Anno") else annotation


def test_keyword_options_are_the_fields_that_are_no_parameters() -> None:
    named = set(inspect.signature(distill).parameters) - {"kwargs"}
    hints = get_type_hints(DistillOptions)
    fields = DistillationConfig.model_fields
    assert set(hints) - OTHER_NAMES == set(fields) - named
    for name in set(hints) - OTHER_NAMES:
        assert hints[name] == bare(fields[name].annotation), name


def test_a_metric_that_is_not_there_is_found_before_anything_is_spent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric: there is no module 'nowhere'"):
        distill(
            "run",
            [{"input": "2+2", "output": "4"}],
            "Do the sum.",
            output_dir=tmp_path,
            metric="nowhere:score",
        )
    assert not list(tmp_path.iterdir())


def test_defaults_in_the_signature_are_the_configurations() -> None:
    for name, parameter in inspect.signature(distill).parameters.items():
        if name == "kwargs":
            continue
        default = DistillationConfig.model_fields[name].default
        shown = PydanticUndefined if parameter.default is parameter.empty else parameter.default
        assert shown == default, name


def test_the_signature_is_that_of_the_analysis() -> None:
    assert list(inspect.signature(distill).parameters) == [
        "name", "seed", "instruction", "teacher", "student", "augment_factor", "output_dir",
        "response_model", "kwargs",
    ]  # fmt: skip


SUMS: dict[str, Any] = {
    "name": "my-model",
    "seed": [{"input": "2+2", "output": "4"}],
    "instruction": "Do the sum, please.",
}
EXAMPLES: list[DistillOptions] = [
    {
        "temperature": 0.5,
        "litellm_kwargs": {
            "top_p": 0.9, "timeout": 60, "seed": 42, "api_base": "https://custom-endpoint.com",
        },
    },
    {
        "lora_rank": 16,
        "mlx_lm_kwargs": {
            "lora_dropout": 0.05, "warmup_steps": 100, "weight_decay": 0.01, "seed": 42,
            "gradient_checkpointing": True,
        },
    },
    {
        "temperature": 0.7, "lora_rank": 16, "lora_layers": 8, "val_split": 0.2,
        "litellm_kwargs": {"top_p": 0.95, "timeout": 120},
        "mlx_lm_kwargs": {"lora_dropout": 0.1, "warmup_steps": 500},
    },
    {"batch_size": 2, "learning_rate": 5e-5, "temperature": 0.7, "max_memory_gb": 24},
]  # fmt: skip


@pytest.mark.parametrize("options", EXAMPLES)
def test_the_examples_of_the_analysis_are_accepted(options: DistillOptions) -> None:
    config = DistillationConfig(**SUMS, **options)
    assert {name: getattr(config, name) for name in options} == options


def test_the_methods_of_the_analysis_are_there() -> None:
    config = DistillationConfig(**SUMS, litellm_kwargs={"top_p": 0.9}, mlx_lm_kwargs={"rank": 4})
    pause, stop, share = DistillationConfig.get_system_defaults()
    assert pause <= stop <= 12
    assert share == 0.8
    sent = {"temperature": 0.7, "timeout": 120.0, "top_p": 0.9}
    assert config.get_litellm_synthesis_kwargs() == config.get_litellm_kwargs() == sent
    assert config.get_mlx_lm_kwargs()["lora_parameters"]["rank"] == 4
    assert "--max-seq-length" in config.get_mlx_lm_cli_args()
