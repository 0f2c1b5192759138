"""The parameters of a request, and so of its key: what decides the answer, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanodistill.config import TeacherSettings
from nanodistill.secrets import is_secret_name

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
    """The parameters of a request: the configuration's, without how a call travels."""
    sent = settings.get_litellm_synthesis_kwargs(**stage)
    params = {name: value for name, value in sent.items() if not is_transport(name)}
    if params.get("seed") is not None:
        params["seed"] += ordinal
    return params


def is_transport(name: str) -> bool:
    """Whether a LiteLLM argument says how a call travels, not what is answered."""
    return name in TRANSPORT or name.startswith(PREFIXES) or is_secret_name(name)
