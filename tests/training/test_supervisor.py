"""The supervisor: a child that dies of memory, of something else, or is asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion
from nanodistill.errors import (
    DiskFullError,
    InputError,
    MemoryLimitError,
    ModelError,
    NanoDistillError,
    VerificationError,
)
from nanodistill.events import Event, Notice, Progress, Table, ignore
from nanodistill.run_dir import RunFolder, read_json
from nanodistill.training import train, trainer
from nanodistill.training.metrics_log import read_records
from nanodistill.training.resource_guard import ResourceLimits
from nanodistill.training.runs import latest_run
from nanodistill.training.trainer import KILLED, MemoryPlan, error_from_outcome, supervise
from nanodistill.training.worker import is_out_of_memory
from training.tiny import make_config, make_student, some_rows

SETTINGS: dict[str, Any] = {"num_train_epochs": 2, "logging_steps": 1, "save_steps": 1}
ROWS = cast("DatasetVersion", some_rows())


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("supervised") / "student")


def child() -> psutil.Process:
    """The live child of this process that trains."""
    for found in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess):
            if "nanodistill.training.worker" in found.cmdline():
                return found
    raise AssertionError("no child trains")


class Killer:
    """A listener that kills the child at the first progress of each of its first `times` lives."""

    def __init__(
        self, times: int, number: signal.Signals = signal.SIGKILL, counter: Path | None = None
    ) -> None:
        self.left = times
        self.number = number
        self.counter = counter
        self.armed = True
        self.notices: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.text)
            self.armed = self.armed or "resuming from the last checkpoint" in event.text
        if isinstance(event, Progress) and self.left and self.armed:
            self.armed = False
            self.left -= 1
            if self.counter is not None:
                self.counter.write_text(f"pgfree 7\noom_kill {100 - self.left}\n")
            child().send_signal(self.number)


def train_with(config: DistillationConfig, on_event: Callable[[Event], None]) -> Any:
    return train(config, ROWS, RunFolder(config.run_folder), on_event=on_event)


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a system counts what it killed for memory."""
    path = tmp_path / "vmstat"
    path.write_text("pgfree 7\noom_kill 0\n")
    monkeypatch.setattr(trainer, "VMSTAT", path)
    return path


def test_a_child_that_dies_of_memory_goes_on_with_less(
    student: Path, tmp_path: Path, counter: Path
) -> None:
    killer = Killer(2, counter=counter)
    config = make_config(student, tmp_path, **SETTINGS)
    result = train_with(config, killer)
    half, quarter = [text for text in killer.notices if f"out of memory ({KILLED})" in text]
    assert half.endswith("batch size 2, accumulation 2")
    assert quarter.endswith("batch size 1, accumulation 4")
    assert (result.steps, result.resumed_from is not None) == (12, True)
    found = latest_run(RunFolder(config.run_folder))
    assert found is not None
    folder = found[1]
    assert read_json(folder.adjusted) == {"micro_batch": 1, "checkpointing": False}
    trained = [r["update"] for r in read_records(folder.metrics) if r["kind"] == "train"]
    assert trained == list(range(1, 13)), "each update recorded once"


def test_a_child_that_somebody_kills_goes_on_as_it_was(
    student: Path, tmp_path: Path, counter: Path
) -> None:
    killer = Killer(1)
    config = make_config(student, tmp_path, **SETTINGS)
    assert train_with(config, killer).steps == 12
    assert counter.exists()
    found = latest_run(RunFolder(config.run_folder))
    assert found is not None
    assert not found[1].adjusted.exists()


def test_a_child_that_another_process_ends_is_not_interrupted_by_a_person(
    student: Path, tmp_path: Path
) -> None:
    config = make_config(student, tmp_path, **SETTINGS)
    with pytest.raises(trainer.TrainingEndedError) as ended:
        train_with(config, Killer(1, signal.SIGTERM))
    assert ended.value.exit_code == 3
    assert train_with(config, ignore).steps == 12


def test_what_never_fits_is_given_up_with_a_way_out(
    student: Path, tmp_path: Path, counter: Path
) -> None:
    killer = Killer(9, counter=counter)
    config = make_config(student, tmp_path, **(SETTINGS | {"batch_size": 2}))
    with pytest.raises(
        MemoryLimitError, match="one row per batch and gradient checkpointing"
    ) as end:
        train_with(config, killer)
    assert end.value.exit_code == 4
    assert killer.left == 6, "two rows, one row, one row with checkpointing"


def test_a_child_that_dies_otherwise_goes_on_as_it_was(student: Path, tmp_path: Path) -> None:
    killer = Killer(1, signal.SIGSEGV)
    config = make_config(student, tmp_path, **SETTINGS)
    assert train_with(config, killer).steps == 12
    assert any("died (signal 11); resuming" in text for text in killer.notices)


def test_a_child_that_dies_without_getting_further_is_an_error(
    student: Path, tmp_path: Path
) -> None:
    """Of 220 updates none is saved before the last, so no start gets further than the first."""
    killer = Killer(9, signal.SIGSEGV)
    chosen = {"batch_size": 1, "num_train_epochs": 10, "save_steps": 999}
    config = make_config(student, tmp_path, **(SETTINGS | chosen))
    rows = cast("DatasetVersion", some_rows(22, 0))
    with pytest.raises(NanoDistillError, match="training process died: ") as end:
        train(config, rows, RunFolder(config.run_folder), on_event=killer)
    assert killer.left == 7, "the first start saved its beginning, the second nothing"
    assert "log.txt" in str(end.value)
    assert end.value.exit_code == 1


def test_a_student_that_breaks_after_preflight_is_named(student: Path, tmp_path: Path) -> None:
    own = make_student(tmp_path / "student")

    def tear(event: Event) -> None:
        if isinstance(event, Table):
            weights = own / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(ModelError, match="can't be loaded"):
        train_with(make_config(own, tmp_path, **SETTINGS), tear)


def test_the_guards_stop_reaches_the_command(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits that no process can keep. Given more, the same command goes on."""

    def starved(folder: Any, job: Any, **more: Any) -> Any:
        return supervise(folder, replace(job, limits=ResourceLimits(0.01, 0.02, 1.0)), **more)

    monkeypatch.setattr(trainer, "supervise", starved)
    config = make_config(student, tmp_path, **SETTINGS)
    with pytest.raises(MemoryLimitError, match=r"more than memory_hard_limit_gb = 0\.02") as end:
        train_with(config, ignore)
    assert end.value.exit_code == 4
    monkeypatch.undo()
    assert train_with(config, ignore).steps == 12


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("DiskFullError", 3, DiskFullError),
        ("ConfigError", 2, InputError),
        ("PromptTooLong", 2, InputError),
        ("MemoryLimitError", 4, MemoryLimitError),
        ("VerificationError", 1, VerificationError),
    ],
)
def test_a_childs_error_is_raised_again(name: str, code: int, kind: type[Exception]) -> None:
    outcome = {"error": name, "exit": code, "message": "what", "next_step": "how"}
    error = error_from_outcome(outcome)
    assert type(error) is kind
    assert (str(error), error.exit_code) == ("what\nhow", code)


def test_less_memory_is_half_the_batch_then_checkpointing_then_nothing() -> None:
    fits: list[MemoryPlan | None] = [MemoryPlan(5, False)]
    while (last := fits[-1]) is not None:
        fits.append(last.smaller())
    assert fits[:-1] == [
        MemoryPlan(5, False),
        MemoryPlan(3, False),
        MemoryPlan(2, False),
        MemoryPlan(1, False),
        MemoryPlan(1, True),
    ]


def test_errors_about_memory_are_known() -> None:
    assert is_out_of_memory("std::bad_alloc")
    assert is_out_of_memory("[malloc] Unable to allocate 17179869184 bytes.")
    assert is_out_of_memory(
        "[METAL] Command buffer execution failed: Insufficient Memory "
        "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    )
    assert not is_out_of_memory("[matmul] Last dimension of first input does not match")
