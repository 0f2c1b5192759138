"""What a run would ask and cost, worked out without asking.

The calls that are certain are made as requests and looked up in the journal:
blind seeds, the policy, and the first round of generation, which is the bulk.
What depends on answers (top-ups, traces of inputs that do not exist yet) is
counted from the plan: at least none, at most as if every third row were lost.
So calls and dollars come as a range, and "unknown" is said where no price is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageEstimate:
    """Calls of one stage: in the journal, certain to be asked, and at most."""

    stage: str
    reused: int
    fewest: int
    most: int
    tokens: int


@dataclass(frozen=True)
class PlanEstimate:
    """What `nanodistill plan` shows."""

    stages: tuple[StageEstimate, ...]

    def to_json(self) -> dict[str, Any]:
        return {}

    def summary(self) -> str:
        return ""


async def plan(config: Any, *, listen: Callable[..., None]) -> PlanEstimate:
    raise NotImplementedError
