"""When the next call may be launched: every limit of a session in one place.

`RateLimiter` is asked before each launch and told what became of each call. It
holds no task and reads no clock: times are seconds that the caller passes in,
from any clock that does not go back. A launch waits for whichever is the last to
let it through: calls in flight (`concurrency`), the pace of requests and tokens
(given, said in headers, or learned from refusals, `pace`), and the pauses and
single tries of the `breaker`. Pauses stop all launches, not one worker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nanodistill.engine.adaptive_concurrency import START, AdaptiveConcurrency
from nanodistill.engine.adaptive_pacer import MARGIN, AdaptivePacer, Pacer
from nanodistill.engine.circuit_breaker import CircuitBreaker
from nanodistill.errors import TransientError
from nanodistill.providers.base import RateHints

MINUTE = 60.0
WINDOW = MINUTE / MARGIN
SPREAD = 0.5
SHORTEST_SPREAD = 0.05
FEW_ANSWERS = 10
SPREAD_STEP = 3
LAST_SPREAD = 200
OVERLOADS = frozenset({"rate_limit", "overloaded", "connection"})


@dataclass(slots=True)
class TokenDebit:
    """Tokens of one launch, as estimated and later as they were."""

    at: float
    tokens: int


class TokenWindow:
    """At most so many tokens per minute, in every window, by what is known at launch.

    A call larger than the whole limit goes alone.
    """

    def __init__(self) -> None:
        self._most = math.inf
        self._pace = Pacer()
        self._spent: deque[TokenDebit] = deque()
        self._sum = 0

    def limit(self, tokens_per_minute: float) -> None:
        self._most = tokens_per_minute
        self._pace.rate = MARGIN * tokens_per_minute / MINUTE

    def wait(self, now: float, tokens: int) -> float:
        if math.isinf(self._most):
            return 0.0
        self._forget(now)
        over, when = self._sum + tokens - self._most, now
        for spent in self._spent:
            if over <= 0:
                break
            over -= spent.tokens
            when = spent.at + WINDOW
        return max(when - now, self._pace.wait(now))

    def launched(self, now: float, tokens: int) -> TokenDebit:
        spent = TokenDebit(now, tokens)
        if math.isfinite(self._most):
            self._spent.append(spent)
            self._sum += tokens
            self._pace.launched(now, tokens)
        return spent

    def correct(self, spent: TokenDebit, tokens: int) -> None:
        """`spent` was in truth `tokens`."""
        if math.isfinite(self._most) and self._spent and spent.at >= self._spent[0].at:
            self._sum += tokens - spent.tokens
            self._pace.correct(tokens - spent.tokens)
            spent.tokens = tokens

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0].at <= now - WINDOW:
            self._sum -= self._spent.popleft().tokens


@dataclass(slots=True)
class Permit:
    """One launched call, from `launched` to `answered`, `failed` or `gone`."""

    stage: str
    at: float
    in_flight: int
    number: int
    spent: TokenDebit
    shared: TokenDebit | None


class Allowance:
    """What the user allows at one endpoint, whichever of the models there is asked."""

    def __init__(
        self,
        max_concurrency: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
    ) -> None:
        self._most = max_concurrency
        self._in_flight = 0
        self._requests = Pacer(MARGIN * (requests_per_minute or math.inf) / MINUTE)
        self._tokens = TokenWindow()
        if tokens_per_minute is not None:
            self._tokens.limit(tokens_per_minute)

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a call may be launched; infinite: when one comes back."""
        if self._in_flight >= self._most:
            return math.inf
        return max(self._requests.wait(now), self._tokens.wait(now, tokens))

    def launched(self, now: float, tokens: int) -> TokenDebit:
        self._in_flight += 1
        self._requests.launched(now)
        return self._tokens.launched(now, tokens)

    def sent_again(self, now: float) -> None:
        self._requests.launched(now)

    def answered(self, spent: TokenDebit, tokens: int) -> None:
        """The call of a launch came back with so many tokens."""
        self._tokens.correct(spent, tokens)

    def back(self) -> None:
        """A call is not in flight any more."""
        self._in_flight -= 1


class RateLimiter:
    """All limits on the calls to one model. `shared` holds those that it has with another one."""

    def __init__(
        self,
        max_concurrency: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        start: int = START,
        answered_before: int = 0,
        shared: Allowance | None = None,
    ) -> None:
        self.in_flight = 0
        self._shared = shared
        self.breaker = CircuitBreaker(answered_before)
        self._concurrency = AdaptiveConcurrency(max_concurrency, start)
        self._requests = Pacer()
        self._tokens = TokenWindow()
        self._learned = AdaptivePacer()
        self._spread = Pacer()
        self._answers = 0
        self._own_requests = requests_per_minute or math.inf
        self._own_tokens = tokens_per_minute or math.inf
        self._paused_until = -math.inf
        self._limit(self._own_requests, self._own_tokens)

    @property
    def limit(self) -> int:
        """How many calls may be in flight."""
        return 1 if self.breaker.is_half_open else self._concurrency.limit

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a call of about `tokens` may be launched; infinite: when one comes back."""
        if self.in_flight >= self.limit:
            return math.inf
        paused = max(self.breaker.paused_until, self._paused_until) - now
        together = 0.0 if self._shared is None else self._shared.wait(now, tokens)
        return max(
            paused,
            together,
            self._requests.wait(now),
            self._tokens.wait(now, tokens),
            self._learned.wait(now),
            self._spread.wait(now),
            0.0,
        )

    def launched(self, stage: str, now: float, tokens: int) -> Permit:
        self.in_flight += 1
        self._requests.launched(now)
        self._spread.launched(now)
        number = self._learned.launched(now)
        spent = self._tokens.launched(now, tokens)
        together = None if self._shared is None else self._shared.launched(now, tokens)
        return Permit(stage, now, self.in_flight, number, spent, together)

    def sent_again(self, now: float) -> None:
        """A launched call was refused and is sent once more at once: one more request to pace."""
        self._requests.launched(now)
        if self._shared is not None:
            self._shared.sent_again(now)

    def answered(self, ticket: Permit, now: float, tokens: int, hints: RateHints | None) -> None:
        """An answer came; it was `tokens` long, prompt and all."""
        tried = self.breaker.is_half_open
        self._back()
        self.breaker.answered()
        self._tokens.correct(ticket.spent, tokens)
        if self._shared is not None and ticket.shared is not None:
            self._shared.answered(ticket.shared, tokens)
        self._learned.answered(ticket.number, now - ticket.at, now)
        if tried:
            self._concurrency.tried(ticket.stage, now - ticket.at, now)
        else:
            self._concurrency.answered(ticket.stage, ticket.in_flight, now - ticket.at, now)
        self._spread_out(now - ticket.at)
        if hints is not None:
            self._heed(hints, ticket.spent.tokens, now)

    def failed(self, ticket: Permit, now: float, error: TransientError) -> bool:
        """An attempt failed and may be made again. Whether it is to be held against its row."""
        self._back()
        held = self.breaker.failed(error, ticket.at, now)
        if error.kind == "timeout":
            self._concurrency.timed_out(ticket.at, now)
        elif error.kind in OVERLOADS:
            self._concurrency.overloaded(ticket.at, now, lasting=error.kind != "rate_limit")
        if error.kind == "rate_limit":
            resumes_at = max(now, self.breaker.paused_until)
            self._learned.refused(ticket.number, ticket.at, error.retry_after, resumes_at)
        else:
            self._learned.gone(ticket.number)
        return held

    def declined(self, ticket: Permit, now: float) -> None:
        """The provider answered that there is no answer."""
        self._back()
        self._learned.answered(ticket.number, now - ticket.at, now)
        self.breaker.answered()

    def gone(self, ticket: Permit) -> None:
        """The call was given up; nothing is learned."""
        self._back()
        self._learned.gone(ticket.number)

    def _back(self) -> None:
        self.in_flight -= 1
        if self._shared is not None:
            self._shared.back()

    def _spread_out(self, latency: float) -> None:
        """While the level doubles, spread what it lets through over half a round trip."""
        self._answers += 1
        if not self._concurrency.is_starting or self._answers > LAST_SPREAD:
            self._spread.rate = math.inf
            return
        together = START + SPREAD_STEP * max(0, self._answers - FEW_ANSWERS)
        self._spread.rate = together / max(SPREAD * latency, SHORTEST_SPREAD)

    def _heed(self, hints: RateHints, tokens: int, now: float) -> None:
        """Keep to what headers say. A reset is when a limit is full again: we wait for one call."""
        per_minute = hints.requests_per_minute, hints.tokens_per_minute
        if any(per_minute):
            self._limit(
                min(self._own_requests, per_minute[0] or math.inf),
                min(self._own_tokens, per_minute[1] or math.inf),
            )
        refill = 0.0
        if hints.remaining_requests == 0:
            refill = _refill(1, per_minute[0])
        if hints.remaining_tokens == 0:
            refill = max(refill, _refill(tokens, per_minute[1]))
        if hints.resets_in is not None:
            self._paused_until = max(self._paused_until, now + min(hints.resets_in, refill))

    def _limit(self, requests: float, tokens: float) -> None:
        self._requests.rate = MARGIN * requests / MINUTE
        if math.isfinite(tokens):
            self._tokens.limit(tokens)


class Lanes:
    """The admissions of a session: the teacher's, and by their names those of other models.

    Each model is asked within its own limits, so that one that has to wait holds up no other.
    """

    def __init__(self, teacher: RateLimiter, others: Mapping[str, RateLimiter]) -> None:
        self._teacher = teacher
        self._others = dict(others)

    def __iter__(self) -> Iterator[RateLimiter]:
        return iter((self._teacher, *self._others.values()))

    def of(self, model: str) -> RateLimiter:
        return self._others.get(model, self._teacher)

    @property
    def in_flight(self) -> int:
        return sum(admission.in_flight for admission in self)


def _refill(amount: float, per_minute: float | None) -> float:
    return MINUTE * amount / per_minute if per_minute else MINUTE
