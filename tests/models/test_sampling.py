"""Tokens are drawn from what the filters leave, with the request's own numbers."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanodistill.models.sampling import (
    CANDIDATES,
    Sampling,
    make_sampler,
    sample_mlx,
    sample_numpy,
)

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.3, 0.15], dtype=np.float32)
LOGPROBS = np.log(PROBABILITIES)


def shares(sampling: Sampling) -> list[float]:
    """How often each token comes out, over evenly spaced numbers."""
    draws = 2000
    counts = np.zeros(len(LOGPROBS))
    for i in range(draws):
        counts[sample_numpy(LOGPROBS, sampling, (i + 0.5) / draws)] += 1
    return list(counts / draws)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1, temperature=1), [0.05, 0.4, 0.1, 0.3, 0.15]),
        (Sampling(1, temperature=1, top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(1, temperature=1, top_k=9), [0.05, 0.4, 0.1, 0.3, 0.15]),
        (Sampling(1, temperature=1, top_p=0.69), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(1, temperature=1, top_p=0.71), [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        (Sampling(1, temperature=1, top_p=0.3), [0, 1, 0, 0, 0]),
        (Sampling(1, temperature=1, min_p=0.5), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(1, temperature=1, top_k=3, top_p=0.8), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(1, temperature=0.5), list(PROBABILITIES**2 / (PROBABILITIES**2).sum())),
    ],
)
def test_tokens_come_out_as_often_as_they_should(sampling: Sampling, expected: list[float]) -> None:
    assert shares(sampling) == pytest.approx(expected, abs=0.002)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([5, 300, 2000]),
    temperature=st.floats(0.2, 2),
    top_k=st.sampled_from([0, 1, 7, CANDIDATES, CANDIDATES + 1, 5000]),
    top_p=st.floats(0.05, 1),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
    number=st.floats(0, 1, exclude_max=True),
)
def test_both_implementations_agree(
    seed: int,
    size: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    number: float,
) -> None:
    import mlx.core as mx

    sampling = Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)
    by_numpy = sample_numpy(logits, sampling, number)
    by_mlx = sample_mlx(mx.array(logits)[None], sampling, number).item()
    if by_numpy != by_mlx:
        # What falls on a boundary may go either way, in the last bits.
        near = 1e-5
        beside = {
            sample_numpy(logits, replace(sampling, top_p=min(p, 1.0)), n)
            for p in (top_p - near, top_p, top_p + near)
            for n in (number - near, number, number + near)
        }
        assert by_mlx in beside


def test_a_flat_distribution_needs_more_than_the_heaviest_few() -> None:
    flat = np.zeros(10 * CANDIDATES, dtype=np.float32)
    sampling = Sampling(1, temperature=1, top_p=0.9)
    assert sample_numpy(flat, sampling, 0.5) == 5 * CANDIDATES


def test_a_token_without_probability_is_never_drawn() -> None:
    logprobs = np.array([-np.inf, 0.0, -np.inf], dtype=np.float32)
    for number in (0.0, 0.5, 1 - 2**-53):
        assert sample_numpy(logprobs, Sampling(1, temperature=1), number) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    import mlx.core as mx

    def tokens(seed: int) -> list[object]:
        sampler = make_sampler(Sampling(1, temperature=1, seed=seed))
        return [sampler(mx.array(LOGPROBS)[None]).item() for _ in range(50)]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)
    numbers = random.Random(1)
    assert tokens(1)[0] == sample_numpy(LOGPROBS, Sampling(1, temperature=1), numbers.random())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"stop": ("a", "")},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|would"):
        Sampling(**({"max_tokens": 1} | wrong))  # type: ignore[arg-type]
