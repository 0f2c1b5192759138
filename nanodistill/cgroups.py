"""What a container may use: the limits of Linux's control groups, version 1 and 2.

A process in a container sees the processors and the memory of its host. Its own share stands in
the groups that it belongs to: each sets a limit of its own, and the smallest holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 2**60
"""Version 1 says "no limit" with a number near 2^63."""


@dataclass(frozen=True)
class Limits:
    """None: no group sets one. `cpus` may be a fraction, memory is in bytes."""

    cpus: float | None = None
    memory: int | None = None
    memory_used: int | None = None


def read_limits(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> Limits:
    """The limits of this process; none where there are no groups or they can't be read.

    >>> read_limits().cpus        # docker run --cpus 1.5
    1.5
    """
    groups = _memberships(membership)
    cpus = [limit for folder in _folders(mount, groups, "cpu") if (limit := _cpus(folder))]
    memory = [
        (limit, folder)
        for folder in _folders(mount, groups, "memory")
        if (limit := _memory(folder)) is not None
    ]
    if not memory:
        return Limits(min(cpus, default=None))
    limit, folder = min(memory, key=lambda found: found[0])
    return Limits(min(cpus, default=None), limit, _used(folder))


def _memberships(membership: Path) -> dict[str, str]:
    """The path of this process's group by controller; version 2 has one for all, named ""."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return {}
    groups = {}
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _folders(mount: Path, groups: dict[str, str], controller: str) -> Iterator[Path]:
    """The group's folder and those above it. A container often sees its own group as the root."""
    if controller in groups:
        names = ("cpu", "cpu,cpuacct", "cpuacct,cpu") if controller == "cpu" else (controller,)
        root = next((mount / name for name in names if (mount / name).is_dir()), None)
    else:
        root = mount
    if root is None or not root.is_dir():
        return
    own = root / groups.get(controller, groups.get("", "/")).lstrip("/")
    folder = own if own.is_dir() and root in (own, *own.parents) else root
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _cpus(folder: Path) -> float | None:
    if words := _words(folder / "cpu.max"):
        quota, period = (words[0], words[1] if len(words) > 1 else "100000")
    else:
        quota = "".join(_words(folder / "cpu.cfs_quota_us")) or "max"
        period = "".join(_words(folder / "cpu.cfs_period_us")) or "100000"
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _memory(folder: Path) -> int | None:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    found = [limit for name in names if (limit := _number(folder / name)) is not None]
    return min((limit for limit in found if limit < UNLIMITED), default=None)


def _used(folder: Path) -> int | None:
    """Memory in use that can't be given back at once: without files that are only cached."""
    used = _number(folder / "memory.current")
    if used is None:
        used = _number(folder / "memory.usage_in_bytes")
    if used is None:
        return None
    stat = dict(zip(*[iter(_words(folder / "memory.stat"))] * 2, strict=False))
    cached = stat.get("inactive_file", stat.get("total_inactive_file", "0"))
    return max(0, used - (int(cached) if cached.isdigit() else 0))


def _number(path: Path) -> int | None:
    text = "".join(_words(path))
    return int(text) if text.isdigit() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
