"""Whether a failed call is made again, and when. The only place that retries.

tenacity's strategies decide; no task sleeps in them. A call that is to be made
again is put aside with the time at which it is due, and holds nothing
meanwhile. LiteLLM, the providers' clients and instructor are told to retry zero
times. Refusals ("too fast") are no failures of a call: they wait with all
launches, see `nanodistill.engine.circuit_breaker`.
"""

from __future__ import annotations

from random import Random

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base

from nanodistill.errors import CallError, TransientError

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
"""Seconds. The first wait is under one, as most failures are a connection that dropped."""


class Jittered(wait_base):
    """Exponential backoff, each wait drawn from the upper half of its range."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, retry_state: RetryCallState) -> float:
        longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2.0**retry_state.attempt_number)
        return longest * (0.5 + 0.5 * self._random.random())


class RetryPolicy:
    """Waits between the attempts at one call."""

    def __init__(self, max_retries: int, random: Random) -> None:
        self._strategy = AsyncRetrying(
            stop=stop_after_attempt(max_retries + 1),
            wait=Jittered(random),
            retry=retry_if_exception_type(TransientError),
        )

    def wait_after(self, failures: int, error: CallError) -> float | None:
        """Seconds to wait after so many failed attempts, the last with `error`; None: give up."""
        state = RetryCallState(self._strategy, fn=None, args=(), kwargs={})
        state.attempt_number = failures
        state.set_exception((type(error), error, error.__traceback__))
        if not self._strategy.retry(state) or self._strategy.stop(state):
            return None
        asked = error.retry_after if isinstance(error, TransientError) else None
        return max(self._strategy.wait(state), asked or 0.0)
