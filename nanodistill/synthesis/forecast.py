"""How long the wanted rows will still take, and what they will have cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

from nanodistill.events import ROWS, Progress, Value
from nanodistill.teacher.account import Account, dollars

LOOKED_AT = 4
"""Rounds, the last ones: what the journal answered is over in no time, and then it isn't."""


class Forecast:
    """Goes by the rounds completed last. Times are of `clock`, in seconds."""

    def __init__(
        self, wanted: int, account: Account, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        self._wanted = wanted
        self._account = account
        self._clock = clock
        self._seen: deque[tuple[float, float, int, float]] = deque(maxlen=LOOKED_AT)

    def progress(self, filled: int, ahead: float = 0.0) -> Progress:
        """Rows kept of those wanted, with what is left of the time and all the dollars.

        `ahead` are rows that are paid for and not read yet, as far as is known.
        """
        paid = min(filled + ahead, self._wanted)
        self._seen.append((self._clock(), self._account.cost_usd, filled, paid))
        (began, spent, before, paid_before), (now, cost, _, _) = self._seen[0], self._seen[-1]
        new, left = filled - before, self._wanted - filled
        if not new or not left:
            return Progress(ROWS, filled, self._wanted, "kept")
        figures: dict[str, Value] = {}
        if self._account.known_cost is not None and cost > spent and paid > paid_before:
            each = (cost - spent) / (paid - paid_before)
            figures["in all about"] = dollars(cost + each * (self._wanted - paid))
        seconds = (now - began) / new * left
        return Progress(ROWS, filled, self._wanted, "kept", seconds, figures)
