"""`distill`'s signature says what the configuration says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic_core import PydanticUndefined

from nanodistill.config import DistillationConfig
from nanodistill.config.options import DistillOptions
from nanodistill.distilling import distill
from nanodistill.errors import ConfigError

OTHER_NAMES = {"synthesis_temperature", "advanced_config", "prompt_templates"}


def test_keyword_options_are_the_fields_that_are_no_parameters() -> None:
    named = set(inspect.signature(distill).parameters) - {"kwargs"}
    hints = get_type_hints(DistillOptions)
    fields = DistillationConfig.model_fields
    assert set(hints) - OTHER_NAMES == set(fields) - named
    for name in set(hints) - OTHER_NAMES:
        assert hints[name] == fields[name].annotation, name


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
