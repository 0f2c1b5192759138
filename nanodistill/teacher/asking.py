"""What goes into a request, and so into its key: what decides the answer, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanodistill.config import TeacherSettings
from nanodistill.redaction import is_secret_name
from nanodistill.teacher.answers import LIMIT_NAMES

TRANSPORT = frozenset(
    {
        "api_base",
        "base_url",
        "api_version",
        "client",
        "custom_llm_provider",
        "default_headers",
        "drop_params",
        "extra_headers",
        "headers",
        "max_retries",
        "metadata",
        "no-log",
        "organization",
        "request_timeout",
        "shared_session",
        "ssl_verify",
        "stream_timeout",
        "timeout",
        "user",
        "verbose",
    }
)
PREFIXES = ("aws_", "azure_", "vertex_", "litellm_", "s3_", "gcs_")


def params_for(settings: TeacherSettings, stage: Mapping[str, Any], ordinal: int) -> dict[str, Any]:
    """The parameters of a request: the user's kwargs over the stage's over the fields.

    `max_output_tokens` is the user's too, and goes before the stage's own limit.
    """
    params = {"temperature": settings.temperature, **stage}
    if settings.max_output_tokens is not None:
        params = _without_limits(params) | {"max_tokens": settings.max_output_tokens}
    theirs = {
        name: value for name, value in settings.litellm_kwargs.items() if not is_transport(name)
    }
    if any(name in theirs for name in LIMIT_NAMES):
        params = _without_limits(params)
    params |= theirs
    if params.get("seed") is not None:
        params["seed"] += ordinal
    return params


def is_transport(name: str) -> bool:
    """Whether a LiteLLM argument says how a call travels, not what is answered."""
    return name in TRANSPORT or name.startswith(PREFIXES) or is_secret_name(name)


def _without_limits(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in LIMIT_NAMES}
