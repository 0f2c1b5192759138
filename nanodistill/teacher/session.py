"""What the parts of a running teacher share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nanodistill.events import Listener
from nanodistill.teacher.account import Account
from nanodistill.teacher.budget import Budget
from nanodistill.teacher.chains import Chains, Lost
from nanodistill.teacher.limits import Lanes
from nanodistill.teacher.provider import Provider
from nanodistill.teacher.recorder import Offload, Recorder
from nanodistill.teacher.retry import RetryPolicy
from nanodistill.teacher.stop import StopSignal


@dataclass(frozen=True)
class Session:
    """One open teacher. `lost` holds, by key, what failed too often in this session.

    `roles` says what models other than the teacher are, by their names.
    """

    provider: Provider
    recorder: Recorder
    chains: Chains
    lost: dict[str, Lost]
    lanes: Lanes
    budget: Budget
    retry: RetryPolicy
    account: Account
    stop: StopSignal
    listen: Listener
    redact: Callable[[str], str]
    offload: Offload
    roles: Mapping[str, str] = field(default_factory=dict)
