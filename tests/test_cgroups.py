"""Limits of containers, read from trees of files as Linux lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.cgroups import Limits, read_limits

GIB = 1024**3
V2 = "0::/app/worker\n"
V1 = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n"
TREES: dict[str, tuple[str, dict[str, str], Limits]] = {
    "none": ("", {}, Limits()),
    "v2, unlimited": (V2, {"cpu.max": "max 100000", "memory.max": "max"}, Limits()),
    "v2, as docker shows it": (
        "0::/\n",
        {
            "cpu.max": "150000 100000",
            "memory.max": str(4 * GIB),
            "memory.current": str(3 * GIB),
            "memory.stat": f"anon 5\ninactive_file {GIB}\n",
        },
        Limits(1.5, 4 * GIB, 2 * GIB),
    ),
    "v2, the smallest of the groups above": (
        V2,
        {
            "app/worker/cpu.max": "400000 100000",
            "app/cpu.max": "200000 100000",
            "app/worker/memory.max": str(8 * GIB),
            "app/memory.high": str(2 * GIB),
            "app/memory.current": str(GIB),
        },
        Limits(2.0, 2 * GIB, GIB),
    ),
    "v1": (
        V1,
        {
            "memory/docker/x/memory.limit_in_bytes": str(GIB),
            "memory/docker/x/memory.usage_in_bytes": "100",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
        },
        Limits(0.5, GIB, 100),
    ),
    "v1, whose path is the host's": (
        V1,
        {
            "memory/memory.limit_in_bytes": str(GIB),
            "memory/memory.usage_in_bytes": "7",
            "cpu/cpu.cfs_quota_us": "-1",
        },
        Limits(None, GIB, 7),
    ),
    "nonsense": (V2, {"cpu.max": "a b", "memory.max": "-", "app/worker/cpu.max": "1 0"}, Limits()),
}


@pytest.mark.parametrize("tree", TREES)
def test_limits(tmp_path: Path, tree: str) -> None:
    member, files, expected = TREES[tree]
    (tmp_path / "cgroup").write_text(member)
    (tmp_path / "mount").mkdir()
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert read_limits(tmp_path / "mount", tmp_path / "cgroup") == expected


def test_no_groups_at_all(tmp_path: Path) -> None:
    assert read_limits(tmp_path / "nowhere", tmp_path / "neither") == Limits()
