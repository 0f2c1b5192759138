"""What the parts of a running teacher share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nanodistill.events import Listener
from nanodistill.teacher.account import Account
from nanodistill.teacher.budget import Budget
from nanodistill.teacher.chains import Chains, Lost
from nanodistill.teacher.limits import Admission
from nanodistill.teacher.provider import Provider
from nanodistill.teacher.recorder import Offload, Recorder
from nanodistill.teacher.retry import RetryPolicy
from nanodistill.teacher.stop import StopSignal


@dataclass(frozen=True)
class Session:
    """One open teacher. `lost` holds, by key, what failed too often in this session."""

    provider: Provider
    recorder: Recorder
    chains: Chains
    lost: dict[str, Lost]
    admission: Admission
    budget: Budget
    retry: RetryPolicy
    account: Account
    stop: StopSignal
    listen: Listener
    redact: Callable[[str], str]
    offload: Offload
