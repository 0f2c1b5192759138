"""Who a teacher's name means: LiteLLM decides, we remember what of it we need."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nanodistill.errors import ConfigError, Problem
from nanodistill.teacher.libraries import load_litellm
from nanodistill.teacher.prices import entry_of

BASE_NAMES = ("api_base", "base_url")
BASE_VARIABLES = {"openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE")}
MLX = "mlx/"


@dataclass(frozen=True)
class Resolved:
    """A teacher: its LiteLLM id, the provider, the name the provider knows it by.

    `base` is a base URL that the user or the environment set; `key` an API key that LiteLLM
    found for the provider.
    """

    model: str
    provider: str
    bare: str
    base: str | None
    key: str | None

    @property
    def endpoint(self) -> str:
        """What goes into request keys: provider and set base URL, without credentials."""
        if self.base is None:
            return self.provider
        parts = urlsplit(self.base)
        host = parts.netloc.rpartition("@")[2]
        return f"{self.provider} {parts.scheme}://{host}{parts.path.rstrip('/')}"

    @property
    def secrets(self) -> dict[str, str | None]:
        """What may not be told, beyond what the user's settings name."""
        return {"api_key": self.key, "password": urlsplit(self.base or "").password}

    @property
    def is_known(self) -> bool:
        """Whether LiteLLM's table has the model."""
        return entry_of(self.model) is not None

    @property
    def speaks_openai(self) -> bool:
        litellm = load_litellm()
        return self.provider in litellm.openai_compatible_providers or self.provider in (
            "openai",
            "custom_openai",
            "openrouter",
        )


def resolve(teacher: str, litellm_kwargs: Mapping[str, Any]) -> Resolved:
    """
    Raises:
        ConfigError: LiteLLM knows no provider for this name.
    """
    litellm = load_litellm()
    base = next((litellm_kwargs[name] for name in BASE_NAMES if litellm_kwargs.get(name)), None)
    try:
        bare, provider, key, _ = litellm.get_llm_provider(
            teacher,
            custom_llm_provider=litellm_kwargs.get("custom_llm_provider"),
            api_base=base,
            api_key=litellm_kwargs.get("api_key"),
        )
    except litellm.exceptions.BadRequestError as unknown:
        what = f"LiteLLM knows no provider for '{teacher}'{nearest_model(teacher, base)}"
        raise ConfigError("The teacher can't be used:", [Problem("teacher", what)]) from unknown
    return Resolved(teacher, provider, bare, base or base_in_environment(provider), key or None)


def base_in_environment(provider: str) -> str | None:
    usual = f"{provider.upper().replace('-', '_')}_API_BASE"
    names = BASE_VARIABLES.get(provider, (usual,))
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def nearest_model(teacher: str, base: str | None) -> str:
    """Where a wrong name leads: to the nearest known one, or to a provider before it."""
    if base is not None:
        return f"; for a server that speaks OpenAI's format write 'openai/{teacher}'"
    known = load_litellm().model_cost
    near = difflib.get_close_matches(teacher, known, n=1, cutoff=0.6)
    if near:
        return f", did you mean '{near[0]}'?"
    return "; write PROVIDER/MODEL, as in 'anthropic/claude-sonnet-4-5'"
