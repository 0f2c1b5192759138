"""Chips, and the presets that suit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.config import DistillationConfig, TrainingSettings
from nanodistill.hardware import (
    CPU_PRESET,
    GIB,
    PRESETS,
    CgroupLimits,
    Hardware,
    apple,
    cgroup_limits,
    cores,
    detect_hardware,
    free_memory,
    preset,
    total_memory,
)


@pytest.mark.parametrize(
    ("brand", "memory_gb", "generation", "tier", "expected"),
    [
        ("Apple M1", 8, "M1", "", "small"),
        ("Apple M2", 16, "M2", "", "medium"),
        ("Apple M4", 32, "M4", "", "medium"),
        ("Apple M2 Pro", 16, "M2", "Pro", "medium"),
        ("Apple M3 Pro", 36, "M3", "Pro", "large"),
        ("Apple M3 Max", 128, "M3", "Max", "largest"),
        ("Apple M1 Ultra", 64, "M1", "Ultra", "largest"),
        ("Apple M5 Max", 48, "M5", "Max", "large"),
    ],
)
def test_an_apple_chip_is_known_by_its_name(
    brand: str, memory_gb: float, generation: str, tier: str, expected: str
) -> None:
    found = apple(brand, memory_gb, cores=8)
    assert (found.generation, found.tier, preset(found)[0]) == (generation, tier, expected)
    assert found.tflops is not None


def test_a_chip_of_the_future_still_has_a_preset() -> None:
    found = apple("Apple Z9 Mega", 64, 16)
    assert (preset(found)[0], found.tflops) == ("medium", None)


@pytest.mark.parametrize(("memory_gb", "expected"), [(8, "small"), (24, "medium"), (80, "largest")])
def test_a_gpu_goes_by_its_own_memory(memory_gb: float, expected: str) -> None:
    assert preset(Hardware("cuda", "NVIDIA H100", 16, memory_gb))[0] == expected


def test_a_linux_cpu_has_its_own() -> None:
    assert preset(Hardware("cpu", "AMD EPYC", 64, 512)) == CPU_PRESET


def test_presets_set_training_fields_to_values_that_hold() -> None:
    for _, values in (*PRESETS, CPU_PRESET):
        assert set(values) <= set(TrainingSettings.model_fields)
        rows = [{"input": "a", "output": "b"}]
        DistillationConfig(name="a", seed=rows, instruction="Do this now.", **values)


def test_this_machine_is_described() -> None:
    found = detect_hardware()
    assert found.cores == cores() > 0
    assert found.memory_gb > 0.5
    assert found.chip in found.describe()


MANY = "9223372036854771712"
"""What version 1 writes for no limit."""


def confined(
    folder: Path, groups: str, mounts: list[tuple[str, str, str, str]], files: dict[str, str]
) -> CgroupLimits:
    """What is read of a tree of control groups. `mounts` are root, place in the tree, type and
    options."""
    process = folder / "process"
    process.mkdir()
    (process / "cgroup").write_text(groups)
    lines = [
        f"{n} 1 0:{n} {root} {str(folder / place).replace(' ', chr(92) + '040')} rw shared:9 - "
        f"{kind} {kind} {options}\n"
        for n, (root, place, kind, options) in enumerate(mounts)
    ]
    (process / "mountinfo").write_text("".join(lines) + "short line\n")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return cgroup_limits(process)


UNIFIED = [("/", "a b", "cgroup2", "rw,nsdelegate")]


def test_the_smallest_limit_of_nested_groups_holds(tmp_path: Path) -> None:
    found = confined(
        tmp_path,
        "0::/pod/box\n",
        UNIFIED,
        {
            "a b/pod/box/memory.max": "max",
            "a b/pod/box/cpu.max": "max 100000",
            "a b/pod/memory.max": str(4 * GIB),
            "a b/pod/memory.high": str(3 * GIB),
            "a b/pod/memory.current": str(2 * GIB),
            "a b/pod/memory.stat": f"anon 5\ninactive_file {GIB}",
            "a b/pod/cpu.max": "150000 100000",
            "a b/pod/cpu.stat": "usage_usec 2500000\nuser_usec 1",
            "a b/cpu.max": "400000 100000",
        },
    )
    assert found == CgroupLimits(1.5, 3 * GIB, 2 * GIB, 2.5)


def test_the_groups_of_version_1(tmp_path: Path) -> None:
    found = confined(
        tmp_path,
        "3:cpu,cpuacct:/docker/box\n2:memory:/docker/box\n1:name=systemd:/\n",
        [("/docker/box", "cpu", "cgroup", "rw,cpu,cpuacct"),
         ("/docker/box", "memory", "cgroup", "rw,memory")],
        {
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
            "cpu/cpuacct.usage": "7000000000",
            "memory/memory.limit_in_bytes": str(2 * GIB),
            "memory/memory.usage_in_bytes": str(3 * GIB),
        },
    )  # fmt: skip
    assert found == CgroupLimits(0.5, 2 * GIB, 0, 7.0)


def test_what_others_hold_in_a_group_counts_under_its_limit(tmp_path: Path) -> None:
    """A pod of 8 GiB with two boxes: ours holds 1 GiB of its own 4, the other one 5."""
    found = confined(
        tmp_path,
        "0::/pod/ours\n",
        UNIFIED,
        {
            "a b/pod/memory.max": str(8 * GIB),
            "a b/pod/memory.current": str(6 * GIB),
            "a b/pod/ours/memory.max": str(4 * GIB),
            "a b/pod/ours/memory.current": str(GIB),
            "a b/pod/other/memory.max": str(GIB),
            "a b/pod/other/memory.current": str(5 * GIB),
        },
    )
    assert (found.memory, found.memory_left) == (4 * GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("stat", "memory", "left"),
    [
        ("total_inactive_file 0", 4 * GIB, GIB),
        (f"total_inactive_file {GIB}\ninactive_file 7", 4 * GIB, 2 * GIB),
        (f"hierarchical_memory_limit {7 * GIB // 2}", 7 * GIB // 2, GIB // 2),
        (f"hierarchical_memory_limit {MANY}", 4 * GIB, GIB),
    ],
)
def test_the_same_in_version_1(stat: str, memory: int, left: int, tmp_path: Path) -> None:
    found = confined(
        tmp_path,
        "2:memory:/docker/box\n",
        [("/docker/box", "memory", "cgroup", "rw,memory")],
        {
            "memory/memory.limit_in_bytes": str(4 * GIB),
            "memory/memory.usage_in_bytes": str(3 * GIB),
            "memory/memory.stat": stat,
        },
    )
    assert (found.memory, found.memory_left) == (memory, left)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"a b/memory.max": "max", "a b/cpu.max": "max 100000"},
        {"a b/memory.max": "", "a b/cpu.max": ""},
        {"a b/memory.max": "much", "a b/cpu.max": "1 0"},
        {"a b/memory.limit_in_bytes": MANY, "a b/cpu.cfs_quota_us": "-1"},
        {"a b/memory.max/folder": "1", "a b/cpu.max/folder": "1"},
    ],
)
def test_no_limit_is_none(files: dict[str, str], tmp_path: Path) -> None:
    assert confined(tmp_path, "0::/../elsewhere\n", UNIFIED, files) == CgroupLimits()


def test_a_system_without_groups_has_no_limits(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path / "none") == CgroupLimits()
    assert 0 < free_memory() <= total_memory()
