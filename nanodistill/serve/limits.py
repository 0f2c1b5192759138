"""How much the server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is beyond these is refused, with a status that says so.

    `batch` requests are answered at once and `queue` more may wait. `seconds`
    is the time that one request may take, waiting included; `grace` how long
    requests may go on after the server was told to stop. `body` is in bytes;
    `schema_seconds` may pass until a request's schema is understood, and until an answer is
    checked against it. A connection without a request, or with half of its
    headers, is closed after `header_seconds`.
    """

    batch: int
    queue: int = 64
    seconds: float = 300.0
    grace: float = 20.0
    body: int = 1 << 20
    body_seconds: float = 30.0
    header_seconds: float = 20.0
    schema_seconds: float = 10.0

    @property
    def requests(self) -> int:
        return self.batch + self.queue
