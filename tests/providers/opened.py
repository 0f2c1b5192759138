"""Configurations and requests for tests of providers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.providers.base import Provider
from nanodistill.providers.factory import open_provider
from nanodistill.providers.lazy_imports import quiet
from nanodistill.types import Request

KEY = "sk-canary-0123456789abcdef"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}, "why": {"type": "string"}},
    "required": ["label", "why"],
    "additionalProperties": False,
}


def config(**fields: Any) -> DistillationConfig:
    needed = {"name": "t", "seed": [{"input": "a", "output": "b"}], "instruction": "Sort the text."}
    return DistillationConfig(**{**needed, "teacher": "openai/any", **fields})


def config_for(base: str, **fields: Any) -> DistillationConfig:
    """A configuration whose teacher is a server at `base`, with the canary as its key."""
    own = {"api_base": base, "api_key": KEY} | fields.pop("litellm_kwargs", {})
    return config(litellm_kwargs=own, **fields)


def request(
    text: str = "hello",
    *,
    schema: dict[str, Any] | None = None,
    model: str = "openai/any",
    system: str | None = "Be brief.",
    **params: Any,
) -> Request:
    turns: list[Any] = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": text}]
    return Request("test", "openai", model, tuple(turns), params, schema)


@asynccontextmanager
async def opened(settings: DistillationConfig, **more: Any) -> AsyncIterator[Provider]:
    """A provider as a run has it: the libraries below it are quiet."""
    with quiet():
        provider = open_provider(settings, **more)
        try:
            yield provider
        finally:
            await provider.aclose()
