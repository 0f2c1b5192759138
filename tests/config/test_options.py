"""`distill`'s signature says what the configuration says."""

from __future__ import annotations

import inspect
from typing import get_type_hints

from pydantic_core import PydanticUndefined

from nanodistill.config import DistillationConfig
from nanodistill.config.options import DistillOptions
from nanodistill.distilling import distill

OTHER_NAMES = {"synthesis_temperature", "advanced_config", "prompt_templates"}


def test_keyword_options_are_the_fields_that_are_no_parameters() -> None:
    named = set(inspect.signature(distill).parameters) - {"kwargs"}
    hints = get_type_hints(DistillOptions)
    fields = DistillationConfig.model_fields
    assert set(hints) - OTHER_NAMES == set(fields) - named
    for name in set(hints) - OTHER_NAMES:
        assert hints[name] == fields[name].annotation, name


def test_defaults_in_the_signature_are_the_configurations() -> None:
    for name, parameter in inspect.signature(distill).parameters.items():
        if name == "kwargs":
            continue
        default = DistillationConfig.model_fields[name].default
        shown = PydanticUndefined if parameter.default is parameter.empty else parameter.default
        assert shown == default, name
