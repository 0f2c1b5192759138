"""What the journal keeps, and what it tells: attempts, responses, validations, totals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nanodistill.types import Completion, Usage

Cause = Literal["first", "retry", "longer", "repair"]
Outcome = Literal["answered", "refused", "failed", "row_failed", "stopped"]

ASKED_AGAIN = frozenset({"bad_request", "function"})
"""Failures that say nothing of the request itself: the key, the server or a setting may have
been the reason, or a mistake in a teacher function. None of today's is kept as a response; those
of earlier releases do not count."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call, as the ledger keeps it.

    Attributes:
        at: when it was sent, in seconds since 1970.
        cause: why it was made: for the first time, again after a failure, with more room for a
            truncated answer, or to repair a malformed one.
        outcome: `refused` is over a rate limit, `failed` any other transient failure.
        kind, status: of a failure, its class and HTTP status.
        latency: seconds.
        cost_usd: None where the price is not known.
    """

    at: float
    stage: str
    model: str
    key: str
    cause: Cause
    outcome: Outcome
    kind: str | None = None
    status: int | None = None
    latency: float = 0.0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What a request came to for good: a completion, or a failure that asking again won't mend.

    `whole_by` is the version of the rules that found it valid, 0 if none did.
    """

    key: str
    stage: str
    completion: Completion | None = None
    failure: str | None = None
    message: str = ""
    whole_by: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """An attempt and what it brought, made durable together."""

    attempt: Attempt
    response: StoredResponse | None = None


@dataclass(frozen=True, slots=True)
class Validated:
    """The completion under `key` was found valid by version `by` of the rules."""

    key: str
    by: int


Record = Call | Validated


@dataclass(frozen=True, slots=True)
class CallState:
    """What is known of a response without reading its text.

    `was_there`: since before the journal was opened, so this session did not pay for it.
    """

    was_there: bool
    failure: str | None
    finish: str | None
    whole_by: int


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Answers whose cost is not known: their tokens, and how many have not even those."""

    usage: Usage
    without_usage: int


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """The ledger of one stage, or of several added up.

    Attributes:
        calls: all attempts, of which `answered` brought a completion, `refused` were over a rate
            limit and `failed` ended otherwise.
        retries, repairs, longer: attempts by cause.
        cost_usd: the sum of the costs that are known.
        unpriced: answers whose cost is not known.
        seconds: the latencies added up.
    """

    calls: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    retries: int = 0
    repairs: int = 0
    longer: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    unpriced: int = 0
    seconds: float = 0.0

    def __add__(self, other: UsageTotals) -> UsageTotals:
        return UsageTotals(
            **{name: getattr(self, name) + getattr(other, name) for name in UsageTotals.__slots__}
        )

    @property
    def known_cost(self) -> float | None:
        """Dollars, or None where one of the answers has no known price."""
        return None if self.unpriced else self.cost_usd
