"""The guard: pause, stop, step aside, and never for its own work's sake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from nanodistill.errors import MemoryLimitError
from nanodistill.hardware import GIB, cores
from nanodistill.training.resource_guard import (
    INTERVAL,
    LOAD_PATIENCE,
    LOAD_WINDOW,
    PATIENCE,
    CpuTimes,
    MachineReadings,
    Readings,
    ResourceGuard,
    ResourceLimits,
)


@dataclass
class Machine:
    """A machine on paper. Waiting moves its clock; `memory_gb` are its readings in turn."""

    memory_gb: list[float] = field(default_factory=lambda: [1.0])
    others: list[float] = field(default_factory=lambda: [0.0])
    ours: float = 0.0
    mlx_gb: float = 0.0
    now: float = 100.0
    spent: CpuTimes = field(default_factory=lambda: CpuTimes(0.0, 0.0, 0.0))
    messages: list[str] = field(default_factory=list)
    released: int = 0
    stop: bool = False

    def memory(self) -> int:
        held = self.memory_gb.pop(0) if len(self.memory_gb) > 1 else self.memory_gb[0]
        return int(held * GIB)

    def cpu(self) -> CpuTimes:
        """Two processors: busy with what others do and with ours since the last look."""
        share = self.others.pop(0) if len(self.others) > 1 else self.others[0]
        busy, total, ours = self.spent.busy, self.spent.total, self.spent.ours
        self.spent = CpuTimes(busy + 2 * (share + self.ours), total + 2, ours + 2 * self.ours)
        return self.spent

    def release(self) -> None:
        self.released += 1

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.stop

    def guard(self, limits: ResourceLimits, readings: Readings | None = None) -> ResourceGuard:
        return ResourceGuard(
            limits,
            readings or self,
            mlx_memory=lambda: int(self.mlx_gb * GIB),
            release=self.release,
            wait=self.wait,
            warn=self.messages.append,
            clock=lambda: self.now,
        )


LIMITS = ResourceLimits(max_memory_gb=4, memory_hard_limit_gb=6, cpu_share=0.5)


def test_nothing_happens_below_the_limits() -> None:
    machine = Machine()
    machine.guard(LIMITS).check()
    assert (machine.messages, machine.now, machine.released) == ([], 100.0, 0)


def test_above_the_soft_limit_it_pauses_until_memory_comes_free() -> None:
    machine = Machine(memory_gb=[5, 5, 5, 4.5, 3])
    machine.guard(LIMITS).check()
    assert machine.released == 1
    assert machine.now == 100 + 3 * INTERVAL
    paused, resumed = machine.messages
    assert paused.startswith("paused: 5.0 GiB")
    assert "max_memory_gb is 4" in paused
    assert resumed == "resumed"


def test_releasing_caches_may_be_enough() -> None:
    machine = Machine(memory_gb=[5, 3])
    machine.guard(LIMITS).check()
    assert (machine.released, machine.messages) == (1, [])


def test_a_pause_that_brings_nothing_ends() -> None:
    machine = Machine(memory_gb=[5])
    with pytest.raises(
        MemoryLimitError, match=f"{PATIENCE:.0f} s at 5.0 GiB .* max_memory_gb is 4"
    ):
        machine.guard(LIMITS).check()


def test_above_the_hard_limit_it_stops_at_once() -> None:
    machine = Machine(memory_gb=[6.5])
    with pytest.raises(MemoryLimitError, match=r"6.50 GiB, more than memory_hard_limit_gb = 6"):
        machine.guard(LIMITS).check()
    assert machine.now == 100.0
    assert MemoryLimitError.exit_code == 4


def test_it_stops_too_if_the_hard_limit_is_passed_in_a_pause() -> None:
    with pytest.raises(MemoryLimitError, match=r"7\.00 GiB"):
        Machine(memory_gb=[5, 5, 7]).guard(LIMITS).check()


def test_mlxs_own_count_holds_where_it_is_more() -> None:
    with pytest.raises(MemoryLimitError):
        Machine(memory_gb=[1], mlx_gb=9).guard(LIMITS).check()


def test_a_wish_to_stop_ends_a_pause() -> None:
    machine = Machine(memory_gb=[5], stop=True)
    machine.guard(LIMITS).check()
    assert machine.now == 100 + INTERVAL


def look_again(machine: Machine, guard: ResourceGuard) -> None:
    machine.now += LOAD_WINDOW
    guard.check()


def test_it_steps_aside_for_others_and_comes_back() -> None:
    machine = Machine(others=[0.0, 0.9, 0.7, 0.3])
    guard = machine.guard(LIMITS)
    look_again(machine, guard)
    paused, resumed = machine.messages
    assert paused.startswith("paused: ")
    assert "90% of the processors, cpu_capacity_percent is 0.5" in paused
    assert resumed == "resumed"
    assert machine.now == 100 + LOAD_WINDOW * 3


def test_it_goes_on_beside_others_that_do_not_end() -> None:
    rounds = int(LOAD_PATIENCE / LOAD_WINDOW)
    machine = Machine(others=[0.0, *[0.9] * (rounds + 5), 0.3, 0.8, 0.2])
    guard = machine.guard(LIMITS)
    look_again(machine, guard)
    assert LOAD_PATIENCE < machine.now - 100 <= LOAD_PATIENCE + 3 * LOAD_WINDOW
    assert "still use 90% of the processors after 15 minutes" in machine.messages[-1]
    warned = len(machine.messages)
    while machine.others[0] == 0.9:
        look_again(machine, guard)
    assert len(machine.messages) == warned
    look_again(machine, guard)
    look_again(machine, guard)
    assert "80% of the processors" in machine.messages[warned]
    assert machine.messages[-1] == "resumed"


def test_its_own_load_does_not_pause_it() -> None:
    machine = Machine(others=[0.0, 0.2], ours=0.8)
    guard = machine.guard(LIMITS)
    look_again(machine, guard)
    assert machine.messages == []


def test_it_looks_once_in_a_while() -> None:
    machine = Machine(memory_gb=[1, 9, 9])
    guard = machine.guard(LIMITS)
    guard.check()
    guard.check()
    machine.now += INTERVAL
    with pytest.raises(MemoryLimitError):
        guard.check()


@pytest.mark.parametrize(("share", "expected"), [(0.1, 1), (1.0, cores())])
def test_threads_are_a_share_of_the_cores(share: float, expected: int) -> None:
    assert ResourceLimits(1, 1, share).threads == max(
        1, expected if share == 1 else round(share * cores())
    )


@pytest.fixture
def hungry() -> Iterator[subprocess.Popen[str]]:
    """A child that says when it holds 200 MiB, and later 400, having spent time on it."""
    script = (
        "import sys\n"
        "held = []\n"
        "for _ in range(2):\n"
        "    held.append(bytearray(b'x') * (200 << 20))\n"
        "    print('holding', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield child
    child.kill()
    child.communicate()


def test_a_childs_real_memory_and_time_are_ours(hungry: subprocess.Popen[str]) -> None:
    assert hungry.stdin is not None
    assert hungry.stdout is not None
    readings = MachineReadings(psutil.Process())
    before, spent = readings.memory(), readings.cpu().ours
    hungry.stdout.readline()
    grown = readings.memory() - before
    assert 200 << 20 < grown < 300 << 20
    assert readings.cpu().ours > spent
    limits = ResourceLimits(1000, (before + (300 << 20)) / GIB, 1.0)
    machine = Machine()
    guard = machine.guard(limits, readings)
    guard.check()
    hungry.stdin.write("\n")
    hungry.stdin.flush()
    hungry.stdout.readline()
    machine.now += INTERVAL
    with pytest.raises(MemoryLimitError):
        guard.check()
