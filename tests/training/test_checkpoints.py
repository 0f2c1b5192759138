"""Checkpoints: whole or not there, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill.errors import FolderError
from nanodistill.models.blas import load_fast_blas

load_fast_blas()

import mlx.core as mx  # noqa: E402

from nanodistill.training.checkpoints import (  # noqa: E402
    ADAPTER,
    STATE,
    Checkpoints,
    Identity,
    State,
    Validation,
)

MINE = Identity("data", {"lora_rank": 8, "seed": 0})
MACHINE = {"threads": 2}


def write(folder: Path, *updates: int, best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, MINE)
    checkpoints.machine = MACHINE
    for update in updates:
        state = State(update=update, best=None if best is None else Validation(best, 1.0))
        checkpoints.write(state, {"a": mx.array([float(update)])}, {"step": mx.array(update)})
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    state = State(
        update=7, rate=0.25, rollbacks=1,
        validations=[Validation(0, 2.5), Validation(5, 1.5, 0.75)],
        best=Validation(5, 1.5, 0.75), first_loss=2.5, smoothed_loss=1.6, rows=56, tokens=990,
        seconds=12.5,
    )  # fmt: skip
    optimizer = {"step": mx.array(7, mx.uint64), "layers.1.m": mx.array([0.1, 0.2])}
    written = Checkpoints(tmp_path, MINE)
    written.machine = MACHINE
    written.write(state, {"w": mx.array([[1.5]])}, optimizer)
    found = Checkpoints(tmp_path, MINE).latest()
    assert found is not None
    assert (found.state, found.machine) == (state, MACHINE)
    assert found.adapter()["w"].tolist() == [[1.5]]
    read = found.optimizer()
    assert read["step"].dtype == mx.uint64
    assert bool(mx.all(read["layers.1.m"] == optimizer["layers.1.m"]))


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 0, 2, 4, 6, 8, best=4)
    assert names(tmp_path) == ["0000004", "0000006", "0000008"]


def test_after_a_roll_back_later_ones_are_gone(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, 2, 4)
    checkpoints.write(State(update=2, rate=0.25), {"a": mx.array(0.0)}, {})
    assert names(tmp_path) == ["0000002"]


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, 2, 4)
    weights = tmp_path / "0000004" / ADAPTER
    weights.write_bytes(weights.read_bytes()[:-1])
    damaged: list[Path] = []
    found = checkpoints.latest(damaged)
    assert found is not None
    assert (found.state.update, damaged) == (2, [tmp_path / "0000004"])


@pytest.mark.parametrize("left", [[], [STATE], [ADAPTER]])
def test_one_that_was_being_removed_is_passed_over(tmp_path: Path, left: list[str]) -> None:
    checkpoints = write(tmp_path, 2, 4)
    for path in (tmp_path / "0000004").iterdir():
        if path.name not in left:
            path.unlink()
    found = checkpoints.latest()
    assert found is not None
    assert found.state.update == 2


def test_an_unfinished_one_is_none_and_is_no_obstacle(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, 2)
    (tmp_path / ".0000004.part").mkdir()
    (tmp_path / ".0000004.part" / ADAPTER).write_bytes(b"half")
    found = checkpoints.latest()
    assert found is not None
    assert found.state.update == 2
    write(tmp_path, 4)
    assert names(tmp_path) == ["0000002", "0000004"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Identity("rows", MINE.options), r"data \(data there, rows here\)"),
        (
            Identity("data", {"lora_rank": 4, "seed": 0}),
            r"another run: lora_rank \(8 there, 4 here\)\.",
        ),
    ],
)
def test_another_runs_checkpoint_is_refused_with_what_differs(
    tmp_path: Path, other: Identity, message: str
) -> None:
    write(tmp_path, 2)
    with pytest.raises(FolderError, match=message):
        Checkpoints(tmp_path, other).latest()


def test_another_machine_is_no_other_run(tmp_path: Path) -> None:
    write(tmp_path, 2)
    other = Checkpoints(tmp_path, MINE)
    other.machine = {"threads": 8}
    found = other.latest()
    assert found is not None
    assert found.machine == {"threads": 2}


def test_the_state_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    write(tmp_path, 2)
    value: dict[str, Any] = json.loads((tmp_path / "0000002" / STATE).read_text())
    assert value["state"]["update"] == 2
    assert value["options"] == MINE.options
