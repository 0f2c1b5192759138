"""What a session has done so far, for the panel, the --json line and the card."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nanodistill.engine.call_queue import Batch
from nanodistill.events import Listener, Progress, Value
from nanodistill.formatting import dollars
from nanodistill.journal import Attempt
from nanodistill.types import Usage

SPAN = 10.0
"""Seconds over which rates are taken: long enough for slow answers, short enough to show a
stall."""
BETWEEN_EVENTS = 0.1
"""Seconds. A person sees no more than ten changes a second."""


@dataclass
class UsageStats:
    """Calls, tokens and dollars of this session.

    `made` counts attempts, `retried` those of them that were made again after a
    failure or a refusal, `repaired` those that mended or lengthened an answer;
    `timed_out` are those of the failed ones to which no answer came in time;
    `reused` counts requests that the journal had answered before. `cost_usd`
    adds up what is known, `unpriced` counts the answers whose cost is not.
    """

    made: int = 0
    reused: int = 0
    retried: int = 0
    repaired: int = 0
    refused: int = 0
    failed: int = 0
    timed_out: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    unpriced: int = 0

    @property
    def known_cost(self) -> float | None:
        """Dollars, or None where one of the answers has no known price."""
        return None if self.unpriced else self.cost_usd

    def add(self, attempt: Attempt) -> None:
        self.made += 1
        self.retried += attempt.cause == "retry"
        self.repaired += attempt.cause in ("repair", "longer")
        self.refused += attempt.outcome == "refused"
        self.failed += attempt.outcome not in ("answered", "refused")
        self.usage += attempt.usage
        self.cost_usd += attempt.cost_usd or 0.0
        self.unpriced += attempt.outcome == "answered" and attempt.cost_usd is None


class ThroughputMeter:
    """Answers and tokens per second over the last seconds."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._answers: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, now: float, tokens: int) -> None:
        self._answers.append((now, tokens))
        self._tokens += tokens

    def per_second(self, now: float) -> tuple[float, float]:
        while self._answers and self._answers[0][0] < now - SPAN:
            self._tokens -= self._answers.popleft()[1]
        span = max(min(SPAN, now - self._began), 1e-3)
        return len(self._answers) / span, self._tokens / span


class Stage:
    """How one stage gets on: its settlings, also those that ended while another went on."""

    def __init__(self, now: float) -> None:
        self.jobs: list[Batch] = []
        self.active = 0
        self.asked = 0
        self.cost_usd = 0.0
        self.told_at = float("-inf")
        self.speed = ThroughputMeter(now)

    @property
    def done(self) -> int:
        return sum(job.done for job in self.jobs)

    @property
    def total(self) -> int | None:
        known = [job.total for job in self.jobs if job.total is not None]
        return sum(known) if len(known) == len(self.jobs) else None


class ProgressReporter:
    """Tells a listener how the stages get on, as often as is worth it."""

    def __init__(self, account: UsageStats, on_event: Listener, clock: Callable[[], float]) -> None:
        self._account = account
        self._listen = on_event
        self._clock = clock
        self._speed = ThroughputMeter(clock())
        self._stages: dict[str, Stage] = {}

    def enter(self, job: Batch) -> None:
        """A settling begins, once its stage is known."""
        stage = self._stages.get(job.stage)
        if stage is None:
            stage = self._stages[job.stage] = Stage(self._clock())
        stage.jobs.append(job)
        stage.active += 1

    def leave(self, job: Batch) -> None:
        """A settling is over. With the last one of a stage, counting begins anew."""
        stage = self._stages.get(job.stage)
        if stage is not None:
            stage.active -= 1
            if not stage.active:
                del self._stages[job.stage]

    def answered(self, name: str, tokens: int, cost_usd: float | None) -> None:
        now, stage = self._clock(), self._stages.get(name)
        self._speed.add(now, tokens)
        if stage is not None:
            stage.asked += 1
            stage.cost_usd += cost_usd or 0.0
            stage.speed.add(now, tokens)

    def tell(self, name: str, in_flight: int, limit: int, *, always: bool = False) -> None:
        now, stage = self._clock(), self._stages.get(name)
        if stage is None or not (always or now - stage.told_at >= BETWEEN_EVENTS):
            return
        stage.told_at = now
        done, total = stage.done, stage.total
        calls, tokens = self._speed.per_second(now)
        left = None if total is None else max(0, total - done)
        figures: dict[str, Value] = {
            "calls/s": calls,
            "tokens/s": tokens,
            "in flight": in_flight,
            "limit": limit,
            "refused": self._account.refused,
            "retried": self._account.retried,
            "spent": dollars(self._account.known_cost),
        }
        if self._account.timed_out:
            figures["timed out"] = self._account.timed_out
        if left and (projected := self._projected(stage, left)):
            figures["this stage about"] = dollars(projected)
        of_stage, _ = stage.speed.per_second(now)
        seconds = left / of_stage if left is not None and of_stage else None
        self._listen(Progress(name, done, total, "calls", seconds, figures))

    def _projected(self, stage: Stage, left: int) -> float | None:
        """What the session will have cost at the end of this stage, were it alone from here on."""
        if not stage.asked or self._account.known_cost is None:
            return None
        return self._account.cost_usd + stage.cost_usd / stage.asked * left
