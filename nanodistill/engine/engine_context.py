"""What the parts of a running teacher share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nanodistill.engine.budget import Budget
from nanodistill.engine.group_commit import GroupCommit, Offload
from nanodistill.engine.rate_limiter import Lanes
from nanodistill.engine.response_index import FailedRequest, ResponseIndex
from nanodistill.engine.retry import RetryPolicy
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.engine.usage import UsageStats
from nanodistill.events import Listener
from nanodistill.providers.base import Provider


@dataclass(frozen=True)
class EngineContext:
    """One open teacher. `lost` holds, by key, what failed too often in this session.

    `roles` says what models other than the teacher are, by their names.
    """

    provider: Provider
    recorder: GroupCommit
    chains: ResponseIndex
    lost: dict[str, FailedRequest]
    lanes: Lanes
    budget: Budget
    retry: RetryPolicy
    account: UsageStats
    stop: StopSignal
    on_event: Listener
    redact: Callable[[str], str]
    offload: Offload
    roles: Mapping[str, str] = field(default_factory=dict)
