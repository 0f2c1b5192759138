from __future__ import annotations

import pytest

from nanodistill.config import TeacherPrice
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.prices import Price, price_of
from nanodistill.types import Usage


@pytest.mark.parametrize("model", ["gpt-4o-mini", "openai/gpt-4o-mini"])
def test_a_known_price(model: str) -> None:
    assert price_of(model) == Price(0.15e-6, 0.6e-6, 0.075e-6)


def test_cached_input_has_its_own_price() -> None:
    price = price_of("anthropic/claude-sonnet-4-5")
    assert price is not None
    usage = Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=900)
    assert price.of(usage) == pytest.approx((100 * 3 + 900 * 0.3 + 100 * 15) / 1e6)


def test_unknown_is_none_and_not_nothing() -> None:
    assert price_of("openai/any") is None
    assert price_of("no-such-provider") is None
    assert price_of("azure/gpt-4o-mini-of-our-own") is None


def test_the_users_price_goes_first() -> None:
    own = TeacherPrice(input=1, output=2)
    for model in ("openai/any", "gpt-4o-mini"):
        price = price_of(model, own)
        assert price is not None
        assert price.of(Usage(1_000_000, 1_000_000, 500_000)) == pytest.approx(3)


def test_ours_is_what_litellm_works_out() -> None:
    """For a plain call; LiteLLM's own sum costs 2 ms of processor time a call."""
    litellm = load_litellm()
    for model in ("gpt-4o-mini", "claude-sonnet-4-5", "gemini/gemini-2.5-flash"):
        price = price_of(model)
        assert price is not None
        theirs = litellm.cost_per_token(model=model, prompt_tokens=1234, completion_tokens=567)
        assert price.of(Usage(1234, 567)) == pytest.approx(sum(theirs))


def test_prices_come_from_disk() -> None:
    assert len(load_litellm().model_cost) > 1000
