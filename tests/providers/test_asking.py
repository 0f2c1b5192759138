from __future__ import annotations

from typing import Any

import pytest

from nanodistill.providers.request_params import params_for
from providers.opened import config


@pytest.mark.parametrize(
    ("settings", "stage", "then"),
    [
        ({}, {}, {"temperature": 0.7}),
        ({"temperature": 0.2}, {}, {"temperature": 0.2}),
        ({}, {"temperature": 0.0, "max_tokens": 50}, {"temperature": 0.0, "max_tokens": 50}),
        ({"max_output_tokens": 99}, {"max_tokens": 50}, {"temperature": 0.7, "max_tokens": 99}),
        (
            {"litellm_kwargs": {"temperature": 1.0, "top_p": 0.5}},
            {"temperature": 0.0},
            {"temperature": 1.0, "top_p": 0.5},
        ),
        (
            {"litellm_kwargs": {"max_completion_tokens": 7}, "max_output_tokens": 99},
            {"max_tokens": 50},
            {"temperature": 0.7, "max_completion_tokens": 7},
        ),
    ],
)
def test_the_users_kwargs_go_before_the_stages_and_those_before_the_fields(
    settings: dict[str, Any], stage: dict[str, Any], then: dict[str, Any]
) -> None:
    assert params_for(config(**settings), stage, 0) == then


def test_what_decides_no_answer_is_left_out() -> None:
    travel = {
        "api_key": "sk-12345678", "api_base": "http://x", "timeout": 3, "headers": {"a": "b"},
        "extra_headers": {}, "organization": "o", "aws_secret_access_key": "s", "drop_params": True,
        "api_version": "2", "vertex_project": "p",
    }  # fmt: skip
    assert params_for(config(litellm_kwargs=travel), {}, 0) == {"temperature": 0.7}


def test_a_seed_moves_with_the_ordinal() -> None:
    settings = config(litellm_kwargs={"seed": 40})
    assert [params_for(settings, {}, n)["seed"] for n in (0, 2)] == [40, 42]
