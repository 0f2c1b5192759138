"""A local model behind LiteLLM's own entrance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from nanodistill.models.generation import generate_batch
from nanodistill.models.sampling import Sampling
from nanodistill.providers import local_mlx
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.local_mlx import MAX_BATCH, close_mlx_provider, register_mlx_provider

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "hello the world"}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tiny_model: LoadedModel) -> Iterator[str]:
    """The tiny model's name as a teacher."""
    register_mlx_provider()
    yield f"mlx/{tiny_model.path}"
    close_mlx_provider()


async def ask(model: str, **parameters: Any) -> Any:
    litellm = load_litellm()
    usual = {"model": model, "messages": MESSAGES, "temperature": 0}
    return await litellm.acompletion(**(usual | parameters))


async def test_an_answer_with_its_usage(model: str, tiny_model: LoadedModel) -> None:
    response = await ask(model, max_tokens=12)
    (expected,) = generate_batch(tiny_model, [MESSAGES], Sampling(12), max_batch=1)
    assert response.choices[0].message.content == expected.text
    assert response.choices[0].finish_reason == "length"
    assert response.usage.prompt_tokens == expected.prompt_tokens
    assert response.usage.completion_tokens == expected.completion_tokens == 12
    assert response.usage.total_tokens == expected.prompt_tokens + 12
    assert response.model == model


async def test_every_sampling_parameter_arrives(model: str, tiny_model: LoadedModel) -> None:
    sampling = Sampling(
        30,
        temperature=0.9,
        top_p=0.8,
        top_k=40,
        min_p=0.01,
        repetition_penalty=1.3,
        seed=5,
    )
    (expected,) = generate_batch(tiny_model, [MESSAGES], sampling, max_batch=1)
    given = {
        "max_tokens": 30,
        "temperature": 0.9,
        "top_p": 0.8,
        "top_k": 40,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
        "seed": 5,
    }
    assert (await ask(model, **given)).choices[0].message.content == expected.text
    for name, other in {
        "temperature": 2.0,
        "top_p": 0.1,
        "top_k": 1,
        "min_p": 0.9,
        "repetition_penalty": 9.0,
        "seed": 6,
    }.items():
        response = await ask(model, **(given | {name: other}))
        assert response.choices[0].message.content != expected.text, name
    stopped = await ask(model, **given, stop=expected.text[8:11])
    assert stopped.choices[0].message.content == expected.text[:8]
    assert stopped.choices[0].finish_reason == "stop"


async def test_many_calls_share_the_batch(model: str) -> None:
    responses = await asyncio.gather(
        *(ask(model, max_tokens=4, seed=i) for i in range(2 * MAX_BATCH))
    )
    assert [r.usage.completion_tokens for r in responses] == [4] * (2 * MAX_BATCH)


@pytest.mark.parametrize(
    ("parameters", "exception", "words"),
    [
        ({"frequency_penalty": 0.5}, "UnsupportedParamsError", "does not take frequency_penalty"),
        ({"n": 2}, "UnsupportedParamsError", "does not take n"),
        ({"response_format": {"type": "json_object"}}, "UnsupportedParamsError", "response_format"),
        ({"logit_bias": {1: 2}}, "UnsupportedParamsError", "logit_bias"),
        ({"surprise": 1}, "UnsupportedParamsError", "does not take surprise"),
        ({"temperature": -1}, "BadRequestError", "temperature is -1"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens is 0"),
        (
            {"messages": [{"role": "user", "content": "x" * 600}]},
            "ContextWindowExceededError",
            "prompt has 6.. tokens",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "UnsupportedParamsError",
            "images",
        ),
        ({"model": "mlx/./nowhere"}, "NotFoundError", "There is no model './nowhere'"),
        (
            {"timeout": 0.05, "max_tokens": 450, "temperature": 1, "seed": 4},
            "Timeout",
            r"no answer within 0\.05 s",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_goes_wrong_is_told_in_litellms_words(
    parameters: dict[str, Any], exception: str, words: str, model: str
) -> None:
    with pytest.raises(getattr(load_litellm(), exception), match=words):
        await ask(**{"model": model, **parameters})
    assert (await ask(model, max_tokens=2)).usage.completion_tokens == 2


async def test_parts_of_text_are_joined(model: str) -> None:
    parts = [{"type": "text", "text": "hello "}, {"type": "text", "text": "the world"}]
    joined = await ask(model, messages=[{"role": "user", "content": parts}], max_tokens=8)
    plain = await ask(model, max_tokens=8)
    assert joined.choices[0].message.content == plain.choices[0].message.content


async def test_cancelled_calls_free_their_places(model: str) -> None:
    async with anyio.create_task_group() as group:
        for i in range(MAX_BATCH):
            group.start_soon(partial(ask, model, max_tokens=450, temperature=1, seed=i))
        await ask(model, max_tokens=1)
        assert local_mlx.LOCAL_MODELS.open_calls == MAX_BATCH
        group.cancel_scope.cancel()
    assert local_mlx.LOCAL_MODELS.open_calls == 0


async def test_registering_twice_is_registering_once(model: str) -> None:
    register_mlx_provider()
    providers = [entry["provider"] for entry in load_litellm().custom_provider_map]
    assert providers.count("mlx") == 1


async def test_after_closing_a_call_loads_the_model_again(model: str) -> None:
    first = await ask(model, max_tokens=5)
    await anyio.to_thread.run_sync(close_mlx_provider)
    again = await ask(model, max_tokens=5)
    assert again.choices[0].message.content == first.choices[0].message.content


async def test_plain_code_may_ask_too(model: str) -> None:
    def blocking() -> Any:
        return load_litellm().completion(
            model=model, messages=MESSAGES, max_tokens=5, temperature=0
        )

    response = await anyio.to_thread.run_sync(blocking)
    expected = await ask(model, max_tokens=5)
    assert response.choices[0].message.content == expected.choices[0].message.content


async def test_what_is_not_said_is_as_usual_at_providers(
    model: str, tiny_model: LoadedModel
) -> None:
    """Temperature 1, and as many tokens as the context has room for."""
    response = await ask(model, temperature=None, seed=4)
    sampling = Sampling(512, temperature=1.0, seed=4)
    (expected,) = generate_batch(tiny_model, [MESSAGES], sampling, max_batch=1)
    assert response.choices[0].message.content == expected.text
