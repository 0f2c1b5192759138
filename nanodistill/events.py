"""What long work reports while it runs.

The library never prints: it tells a listener, and `console` shows what it is told. An event is
plain data and costs nothing when nobody listens. Stages send `Progress` as often as they like;
showing it at a bearable rate is the listener's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

ROWS = "rows"
"""The stage under which a run tells how many of the wanted rows are there."""

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the person who watches."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is.

    `stage` is its name ("generate", "train", …); `done` of `total` (None while
    unknown) in `unit`. `seconds_left` where it can be told. `figures` are named
    numbers worth watching ("calls/s", "loss", …), in the order to show them.
    """

    stage: str
    done: int
    total: int | None = None
    unit: str = "rows"
    seconds_left: float | None = None
    figures: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for a person to look at: a preview, a preflight, a result."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Event = Notice | Progress | Table
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for when nobody watches."""
