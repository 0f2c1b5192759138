"""Hard limits on dollars, calls and tokens, calls in flight included.

Before a call is launched its estimate is reserved; when it comes back, what it
took takes the reservation's place, at the price of the model that was asked. A
call whose reservation does not fit waits for others to come back, and if none is
under way the budget is used up. As reservations are on the high side, the sum
passes a limit by at most the error of one call.

Calls of which nobody says what they took (an answer without usage, one that never
came in time) count as estimated. Earlier sessions of the run count too: the ledger
says what they took, and a note in the journal what was estimated.

An estimate knows the prompt's length, the limit on the answer if the request
has one, and else what answers of its stage have been like.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field

from nanodistill.config import TeacherSettings
from nanodistill.config.synthesis_fields import LIMIT_NAMES
from nanodistill.errors import BudgetExceededError
from nanodistill.journal import Unpriced, UsageTotals
from nanodistill.providers.prices import Price
from nanodistill.types import Request, Usage, schema_json

TOKENS_PER_CHARACTER = 0.3
"""English has about 0.25; code and other scripts have more. Too high reserves too much and launches
late, too low lets a limit be passed."""
PROMPT_OVERHEAD = 16
"""Tokens of a chat template around the messages."""
UNKNOWN_ANSWER = 600
"""Tokens of an answer of which nothing is known yet."""
UNKNOWN_CALL = Usage(UNKNOWN_ANSWER, UNKNOWN_ANSWER)
FEW = 20
"""Answers of a stage after which its lengths count as known."""
ABOVE_FEW = 2.0
ABOVE_MANY = 1.25
"""What is reserved, as a multiple of the longest answer so far: while they are few, and later."""
TYPICAL = 1.25
"""What a plan counts with, as a multiple of the mean answer so far."""


@dataclass(frozen=True, slots=True)
class Size:
    """What an estimate goes by. `limit` is the one that the request sets on its answer."""

    stage: str
    characters: int
    limit: int | None
    model: str = ""

    @classmethod
    def of(cls, request: Request) -> Size:
        schema = 0 if request.schema is None else len(schema_json(request.schema))
        limits = [request.params[name] for name in LIMIT_NAMES if request.params.get(name)]
        return cls(
            request.stage,
            schema + sum(len(message["content"]) for message in request.messages),
            min(map(int, limits)) if limits else None,
            request.model,
        )


@dataclass(slots=True)
class LengthStats:
    """What calls of one stage have been like."""

    count: int = 0
    mean: float = 0.0
    longest: int = 0
    tokens_per_character: float = 0.0

    def add(self, usage: Usage, characters: int) -> None:
        self.count += 1
        self.mean += (usage.completion_tokens - self.mean) / self.count
        self.longest = max(self.longest, usage.completion_tokens)
        ratio = max(0, usage.prompt_tokens - PROMPT_OVERHEAD) / max(characters, 1)
        self.tokens_per_character = max(self.tokens_per_character, ratio)


class Estimator:
    """Guesses a call's tokens before it is made."""

    def __init__(self) -> None:
        self._lengths: defaultdict[str, LengthStats] = defaultdict(LengthStats)

    def learn(self, size: Size, usage: Usage) -> None:
        if usage.total_tokens:
            self._lengths[size.stage].add(usage, size.characters)

    def highest(self, size: Size) -> Usage:
        """Tokens that the call will hardly exceed."""
        known, limit = self._lengths[size.stage], size.limit
        if limit is None:
            margin = ABOVE_FEW if known.count < FEW else ABOVE_MANY
            limit = int(known.longest * margin) if known.count else UNKNOWN_ANSWER
        return Usage(_prompt(size, known), limit)

    def typical(self, size: Size) -> Usage:
        """Tokens that the call will likely take, a little on the high side."""
        known, limit = self._lengths[size.stage], size.limit
        answer = int(known.mean * TYPICAL) if known.count else UNKNOWN_ANSWER
        return Usage(_prompt(size, known), answer if limit is None else min(answer, limit))


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is set aside for one call in flight to `model`."""

    model: str
    usage: Usage
    cost_usd: float

    @property
    def tokens(self) -> int:
        return self.usage.total_tokens


@dataclass
class Estimated:
    """What calls took of which nobody said it, by model: how many were answered, and tokens."""

    answers: dict[str, int] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)

    def add(self, model: str, usage: Usage, *, answered: bool) -> None:
        self.answers[model] = self.answers.get(model, 0) + answered
        self.usage[model] = self.usage.get(model, Usage()) + usage

    @classmethod
    def from_note(cls, note: str | None) -> Estimated:
        """What `to_note` wrote; nothing where there is no note."""
        held = {} if note is None else json.loads(note)
        return cls(
            {model: answers for model, (answers, *_) in held.items()},
            {model: Usage(*tokens) for model, (_, *tokens) in held.items()},
        )

    def to_note(self) -> str:
        return json.dumps(
            {model: (self.answers[model], *astuple(self.usage[model])) for model in self.usage}
        )


@dataclass(frozen=True)
class Before:
    """What earlier sessions of the run took.

    `unpriced` are the answers in `sums` whose price was not known then, by model.
    """

    sums: UsageTotals = field(default_factory=UsageTotals)
    unpriced: Mapping[str, Unpriced] = field(default_factory=dict)
    estimated: Estimated = field(default_factory=Estimated)


class Budget:
    """What may still be spent.

    `prices` are those of the models that are asked. `remember` is told what to keep with the
    run of what was estimated.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        prices: Mapping[str, Price | None],
        before: Before,
        remember: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._prices = prices
        self._remember = remember
        self.estimator = Estimator()
        self.calls = before.sums.calls
        self.tokens = before.sums.usage.total_tokens
        self.cost_usd = before.sums.cost_usd
        self._estimated = before.estimated
        for model, unpriced in before.unpriced.items():
            self._count(model, unpriced.usage, tokens=0)
            for _ in range(unpriced.without_usage - self._estimated.answers.get(model, 0)):
                self._count(model, UNKNOWN_CALL)
        for model, usage in self._estimated.usage.items():
            self._count(model, usage)
        self._reserved_tokens = 0
        self._reserved_usd = 0.0
        self._in_flight = 0

    def reserve(self, size: Size) -> Reservation | None:
        """Set aside what a call of `size` may take; None if that does not fit any more."""
        wanted = self._wanted(size)
        if self._too_much(wanted) is not None:
            return None
        self.calls += 1
        self._in_flight += 1
        self._reserved_tokens += wanted.tokens
        self._reserved_usd += wanted.cost_usd
        return wanted

    def settle(self, reservation: Reservation, usage: Usage, cost_usd: float | None) -> None:
        """Put what a call took in place of its reservation."""
        self._release(reservation)
        self.tokens += usage.total_tokens
        self.cost_usd += cost_usd or 0.0

    def settle_unknown(
        self, reservation: Reservation, *, written: int = 0, answered: bool = True
    ) -> None:
        """Nobody says what a call took: its estimate stands.

        `written` are the characters of the answer, which may be more than was thought; a call
        that was not `answered` may have been worked on all the same.
        """
        self._release(reservation)
        usage = reservation.usage
        least = int(written * TOKENS_PER_CHARACTER)
        usage = Usage(usage.prompt_tokens, max(usage.completion_tokens, least))
        self._count(reservation.model, usage)
        self._estimated.add(reservation.model, usage, answered=answered)
        self._remember(self._estimated.to_note())

    def further(self) -> bool:
        """Count one more attempt within a call in flight. False where max_calls has no room."""
        most = self._settings.max_calls
        if most is not None and self.calls >= most:
            return False
        self.calls += 1
        return True

    def cost_of(self, model: str, usage: Usage) -> float | None:
        """Dollars for `usage`; None where no price is known, which a dollar limit rules out."""
        price = self._prices.get(model)
        return None if price is None else price.of(usage)

    def _count(self, model: str, usage: Usage, *, tokens: int | None = None) -> None:
        self.tokens += usage.total_tokens if tokens is None else tokens
        self.cost_usd += self.cost_of(model, usage) or 0.0

    def _release(self, reservation: Reservation) -> None:
        self._in_flight -= 1
        self._reserved_tokens -= reservation.tokens
        self._reserved_usd -= reservation.cost_usd

    def exhausted(self, size: Size) -> BudgetExceededError:
        """Why a call of `size` does not fit, for the person."""
        why = self._too_much(self._wanted(size))
        name = why.split()[0] if why else "the limit"
        return BudgetExceededError(
            f"the budget of this run is used up: {why}. All answers so far are safe.",
            next_step=f"Raise {name} and run the same command: it goes on from here.",
        )

    def _wanted(self, size: Size) -> Reservation:
        highest = self.estimator.highest(size)
        return Reservation(size.model, highest, self.cost_of(size.model, highest) or 0.0)

    def _too_much(self, wanted: Reservation) -> str | None:
        most = self._settings
        tokens = self.tokens + self._reserved_tokens
        dollars = self.cost_usd + self._reserved_usd
        if most.max_calls is not None and self.calls >= most.max_calls:
            return f"max_calls is {most.max_calls:,}, and {self.calls:,} calls were made"
        if most.max_tokens_total is not None and tokens + wanted.tokens > most.max_tokens_total:
            return (
                f"max_tokens_total is {most.max_tokens_total:,}, {tokens:,} tokens were used, "
                f"and the next call may take {wanted.tokens:,}"
            )
        if most.max_cost_usd is not None and dollars + wanted.cost_usd > most.max_cost_usd:
            return (
                f"max_cost_usd is ${most.max_cost_usd:,.4g}, ${dollars:,.4g} were spent, "
                f"and the next call may cost ${wanted.cost_usd:,.4g}"
            )
        return None


def _prompt(size: Size, known: LengthStats) -> int:
    ratio = known.tokens_per_character or TOKENS_PER_CHARACTER
    return PROMPT_OVERHEAD + int(size.characters * ratio)
