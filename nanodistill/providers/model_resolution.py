"""Which model and endpoint a teacher's name means: LiteLLM decides, we keep what we need of it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nanodistill.config.access import (
    address_problem,
    endpoint_problem,
    key_problem,
    proxy_problem,
    without_login,
)
from nanodistill.errors import ConfigError, Problem
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.prices import entry_of
from nanodistill.secrets import is_secret_name

BASE_NAMES = ("api_base", "base_url")
BASE_VARIABLES = {"openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE")}
MLX = "mlx/"
# What a provider's variables begin with, where that is not the provider's own name.
PREFIXES = {
    "bedrock": ("AWS",),
    "sagemaker": ("AWS",),
    "gemini": ("GEMINI", "GOOGLE"),
    "huggingface": ("HF", "HUGGINGFACE"),
    "together_ai": ("TOGETHER",),
    "perplexity": ("PERPLEXITY", "PPLX"),
}


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
    def shown_base(self) -> str | None:
        """The set base URL as messages name it."""
        return None if self.base is None else without_login(self.base)

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
        ConfigError: LiteLLM knows no provider for this name, or the environment's base URL for
            it is none.
    """
    litellm = load_litellm()
    base = next((litellm_kwargs[name] for name in BASE_NAMES if litellm_kwargs.get(name)), None)

    def found() -> tuple[str, str, str | None]:
        bare, provider, key, _ = litellm.get_llm_provider(
            teacher,
            custom_llm_provider=litellm_kwargs.get("custom_llm_provider"),
            api_base=base,
            api_key=litellm_kwargs.get("api_key"),
        )
        return bare, provider, key or None

    try:
        bare, provider, key = found()
        if tidy_environment(provider):
            bare, provider, key = found()
    except litellm.exceptions.BadRequestError as unknown:
        what = f"LiteLLM knows no provider for '{teacher}'{nearest_model(teacher, base)}"
        raise ConfigError("The teacher can't be used:", [Problem("teacher", what)]) from unknown
    return Resolved(teacher, provider, bare, base or base_in_environment(provider), key)


def base_in_environment(provider: str) -> str | None:
    """
    Raises:
        ConfigError: a variable that should hold a base URL holds something else.
    """
    for name in base_variables(provider):
        if not os.environ.get(name):
            continue
        if wrong := address_problem(os.environ[name]):
            problem = Problem("teacher", f"the environment variable {name} {wrong}")
            raise ConfigError("The teacher can't be used:", [problem])
        return os.environ[name]
    return None


def base_variables(provider: str) -> tuple[str, ...]:
    usual = f"{provider.upper().replace('-', '_')}_API_BASE"
    return BASE_VARIABLES.get(provider, (usual,))


def key_variables_set(provider: str) -> list[str]:
    """The variables of the environment that hold a key or token for the provider."""
    begin = PREFIXES.get(provider, (provider.upper().partition("_")[0].replace("-", "_"),))
    return [name for name in os.environ if name.startswith(begin) and is_secret_name(name)]


def tidy_environment(provider: str) -> bool:
    """Take white space off the ends of the provider's variables; True where there was any.

    LiteLLM reads some seventy providers' keys from the environment itself, in many places, and
    sends them as they are. `export KEY="$(cat file; echo)"`, secrets of Kubernetes and files of
    Windows end in a line break, which no HTTP header may have.
    """
    loose = [
        name
        for name in (*key_variables_set(provider), *base_variables(provider))
        if (value := os.environ.get(name)) and value != value.strip()
    ]
    for name in loose:
        os.environ[name] = os.environ[name].strip()
    return bool(loose)


def wrong_access(resolved: Resolved, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Keys, addresses and proxies that can't be meant so. `given` has been looked at."""
    if not given.get("api_key"):
        for name in key_variables_set(resolved.provider):
            if wrong := key_problem(os.environ[name], placeholders=resolved.base is None):
                yield Problem("teacher", f"the environment variable {name} {wrong}")
    if wrong := proxy_problem(resolved.base or "https://api.example"):
        yield Problem("teacher", wrong)
    if resolved.base and resolved.speaks_openai and (wrong := endpoint_problem(resolved.base)):
        field = next((f"litellm_kwargs.{name}" for name in BASE_NAMES if given.get(name)), None)
        variables = base_variables(resolved.provider)
        variable = next((name for name in variables if os.environ.get(name)), "")
        if field is None:
            yield Problem("teacher", f"the environment variable {variable} {wrong}")
        else:
            yield Problem(field, wrong)


def nearest_model(teacher: str, base: str | None) -> str:
    """Where a wrong name leads: to the nearest known one, or to a provider before it."""
    if base is not None:
        return f"; for a server that speaks OpenAI's format write 'openai/{teacher}'"
    known = load_litellm().model_cost
    near = difflib.get_close_matches(teacher, known, n=1, cutoff=0.6)
    if near:
        return f", did you mean '{near[0]}'?"
    return "; write PROVIDER/MODEL, as in 'anthropic/claude-sonnet-4-5'"
