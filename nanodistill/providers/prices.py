"""What a call costs, from LiteLLM's price table, offline, or from the user's own prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill.config import TeacherPrice
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.types import Usage

MILLION = 1_000_000
ON_THIS_MACHINE, USERS_OWN = "mlx/", "python:"


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one token in, out, and in again from the provider's cache."""

    input: float
    output: float
    cached: float

    def of(self, usage: Usage) -> float:
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * self.input
            + usage.cached_tokens * self.cached
            + usage.completion_tokens * self.output
        )


def price_of(model: str, teacher_price: TeacherPrice | None = None) -> Price | None:
    """The price of a teacher, the user's own first; None where none is known.

    What runs on this machine (mlx/…) costs nothing; what a function of the user's costs
    (python:…) is not known.
    A provider's price for cached input is used where the table has one; without one, and with
    the user's own prices, cached input costs what other input does. Surcharges for very long
    prompts and for writing to a cache are left out.
    """
    if teacher_price is not None:
        each = teacher_price.input / MILLION
        return Price(each, teacher_price.output / MILLION, each)
    if model.startswith(ON_THIS_MACHINE):
        return Price(0.0, 0.0, 0.0)
    if model.startswith(USERS_OWN):
        return None
    known = entry_of(model)
    if known is None or "input_cost_per_token" not in known:
        return None
    given = known["input_cost_per_token"]
    cached = known.get("cache_read_input_token_cost")
    output = known.get("output_cost_per_token") or 0.0
    return Price(given, output, given if cached is None else cached)


def batch_price_of(model: str, teacher_price: TeacherPrice | None = None) -> Price | None:
    """What the same tokens cost at the provider's batch endpoint; None where none is known."""
    if teacher_price is not None or model.startswith((ON_THIS_MACHINE, USERS_OWN)):
        return None
    known = entry_of(model) or {}
    given = known.get("input_cost_per_token_batches")
    output = known.get("output_cost_per_token_batches")
    if given is None or output is None:
        return None
    return Price(given, output, known.get("cache_read_input_token_cost_batches", given))


def entry_of(model: str) -> Mapping[str, Any] | None:
    """LiteLLM's entry for a model, under its id with or without the provider."""
    litellm = load_litellm()
    names = [model]
    try:
        bare, provider, _, _ = litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError:
        pass
    else:
        names += [f"{provider}/{bare}"]
        if litellm.model_cost.get(bare, {}).get("litellm_provider") == provider:
            names += [bare]
    table: Mapping[str, Mapping[str, Any]] = litellm.model_cost
    return next((table[name] for name in names if name in table), None)
