"""Notices that the provider answers nobody, and says when to give up.

One refused or failed call says little. A refusal, several failures in a row, or
a failure before anything was ever answered begin a *round*: launches pause, and
what fails meanwhile belongs to the round and is held against no row. From the
second round in a row on, and before the first answer of a session, one call at
a time is sent to try the provider. An answer ends it all; too many rounds
without one trip the breaker.

Rows that fail for good, one after the other, in the same way and with no answer
between them, trip it too: a teacher that refuses everything is a wrong teacher. One
that has answered many in earlier sessions is given more of them, as what is left of a
run that goes on may be just its bad rows.
"""

from __future__ import annotations

from nanodistill.errors import CallError, TransientError
from nanodistill.providers.rate_limit_headers import LONGEST_ASKED_WAIT

FAILURES_TO_SUSPECT = 5
"""Failures in a row. Of calls that fail one time in ten, five in a row are 1 in 100,000."""
ROUNDS_AFTER_AN_ANSWER = 6
ROUNDS_BEFORE_ANY_ANSWER = 3
"""With pauses that double, six rounds are a minute in which a provider may restart. One that has
never answered is more likely a wrong address or key, and three are enough."""
SAME_ROW_FAILURES = 25
MOST_ROW_FAILURES, SHARE_OF_ANSWERED = 100, 0.05
"""Rows that fail alike in a row: 25, or 5% of what was answered before, 100 at most."""
FIRST_PAUSE = 1.0
"""Seconds, doubling with each round."""
LONGEST_PAUSE = 60.0


class CircuitBreaker:
    """What a session knows of its provider's health. Times in seconds, from any clock.

    `answered_before` are the calls that earlier sessions had answers to.
    """

    def __init__(self, answered_before: int = 0) -> None:
        few = min(int(SHARE_OF_ANSWERED * answered_before), MOST_ROW_FAILURES)
        self._most_row_failures = max(SAME_ROW_FAILURES, few)
        self.paused_until = 0.0
        self.reason: str | None = None
        self._ever_answered = False
        self._in_a_row = 0
        self._rounds = 0
        self._round_began = float("-inf")
        self._row_failures = 0
        self._row_kind = ""

    @property
    def is_half_open(self) -> bool:
        """Whether no more than one call may be in flight."""
        return not self._ever_answered or self._rounds > 1

    def answered(self) -> None:
        """The provider is well."""
        self._ever_answered = True
        self._in_a_row = self._rounds = 0

    def row_done(self) -> None:
        """A row has its answer."""
        self._row_failures = 0

    def failed(self, error: TransientError, launched_at: float, now: float) -> bool:
        """Take note of a failed attempt. Whether it is to be held against its row."""
        self._in_a_row += 1
        if self._rounds and launched_at < self._round_began:
            self._pause(now, error.retry_after or 0.0)
            return False
        if error.is_refusal or not self._ever_answered or self._in_a_row >= FAILURES_TO_SUSPECT:
            self._begin_round(error, now)
            return False
        return True

    def row_lost(self, kind: str, message: str) -> None:
        """A row has failed for good."""
        self._row_failures = self._row_failures + 1 if kind == self._row_kind else 1
        self._row_kind = kind
        if self._row_failures >= self._most_row_failures:
            self.reason = (
                f"{self._row_failures} rows in a row were lost in the same way: {kind}: {message}"
            )

    def _begin_round(self, error: TransientError, now: float) -> None:
        self._rounds += 1
        self._round_began = now
        asked = error.retry_after or 0.0
        patience = FIRST_PAUSE * 2.0 ** (self._rounds - 1)
        alone = 0.0 if self._rounds == 1 and error.retry_after is not None else patience
        self._pause(now, max(asked, min(alone, LONGEST_PAUSE)))
        if asked > LONGEST_ASKED_WAIT:
            self.reason = f"the provider asks to wait {asked / 60:.0f} minutes: {_said(error)}"
        elif self._rounds > self._most_rounds(error):
            self.reason = (
                f"the provider has answered none of the last {self._in_a_row} calls, "
                f"the pauses between them growing to {self._longest():.0f} s: {_said(error)}"
            )

    def _most_rounds(self, error: TransientError) -> int:
        patient = self._ever_answered or error.is_refusal
        return ROUNDS_AFTER_AN_ANSWER if patient else ROUNDS_BEFORE_ANY_ANSWER

    def _longest(self) -> float:
        return float(min(FIRST_PAUSE * 2.0 ** (self._rounds - 2), LONGEST_PAUSE))

    def _pause(self, now: float, seconds: float) -> None:
        self.paused_until = max(self.paused_until, now + seconds)


def _said(error: CallError) -> str:
    status = f"HTTP {error.status}, " if error.status else ""
    return f"{status}{error.kind}: {error.message}"
