"""The interface between the engine and whoever answers.

A provider makes one attempt at one call and nothing else: it does not retry, wait for limits, count
money or write the journal. It turns a `Request` into what its service takes, and what comes back
into a `Reply`, or raises a `CallError` of one of three kinds: transient, rejected, fatal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from nanodistill.errors import CallError
from nanodistill.types import Completion, Request


@dataclass(frozen=True, slots=True)
class RateHints:
    """What response headers said of the provider's limits. None where they said nothing.

    `resets_in` is the time in seconds until a spent limit is refilled.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    resets_in: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion and what the headers around it said."""

    completion: Completion
    hints: RateHints | None = None


FURTHER: ContextVar[Callable[[CallError], bool]] = ContextVar("FURTHER", default=lambda _: True)
"""Asked before another attempt within one call, at a request worded otherwise, after the error
that led to it. The engine counts it, and says no where no further call may be made."""


class Provider(Protocol):
    """Whoever answers the calls of a run."""

    @property
    def endpoint(self) -> str:
        """Provider and, where one is set, base URL: what goes into request keys."""

    async def complete(self, request: Request) -> Reply:
        """Make one attempt, and `FURTHER` ones only where the provider refuses the wording.

        Each ends by itself after the configured timeout.

        Raises:
            TransientError, RequestRejectedError, FatalProviderError: by what went wrong.
        """

    async def aclose(self) -> None:
        """Close connections. Calls in flight are lost."""
