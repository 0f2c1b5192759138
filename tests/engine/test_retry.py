from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanodistill.engine.retry import FIRST_WAIT, LONGEST_WAIT, RetryPolicy
from nanodistill.errors import FatalProviderError, RequestRejectedError, TransientError

TIMEOUT = TransientError("timeout", "no answer in 120 s")


def waits(max_retries: int, seed: int = 0) -> list[float | None]:
    policy = RetryPolicy(max_retries, Random(seed))
    return [policy.wait_after(n, TIMEOUT) for n in range(1, max_retries + 2)]


def test_as_many_retries_as_allowed() -> None:
    assert [wait is not None for wait in waits(3)] == [True, True, True, False]
    assert waits(0) == [None]


@given(seed=st.integers())
def test_waits_double_with_jitter(seed: int) -> None:
    for n, wait in enumerate(waits(10, seed)[:-1], start=1):
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2**n)
        assert wait is not None
        assert longest / 2 <= wait <= longest


def test_two_rows_do_not_come_back_together() -> None:
    assert waits(3, seed=1) != waits(3, seed=2)


def test_the_asked_wait_is_kept() -> None:
    policy = RetryPolicy(3, Random(0))
    asked = TransientError("server_error", "busy", status=503, retry_after=30.0)
    assert policy.wait_after(1, asked) == 30.0


@pytest.mark.parametrize(
    "final", [RequestRejectedError("refusal", "no"), FatalProviderError("bad_key", "no")]
)
def test_other_fates_are_not_retried(final: RequestRejectedError | FatalProviderError) -> None:
    assert RetryPolicy(3, Random(0)).wait_after(1, final) is None
