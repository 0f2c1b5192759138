"""train() from rows to adapter, in a real child."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from evaluation.tiny import make_dataset
from safetensors.numpy import load

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion
from nanodistill.errors import RunLockedError
from nanodistill.events import Event, Notice, Progress, Table
from nanodistill.hardware import detect_hardware, preset
from nanodistill.run_dir import RunFolder, read_json
from nanodistill.training import TrainingResult, train
from nanodistill.training.metrics_log import read_records
from nanodistill.training.mlx_setup import WEIGHTS
from nanodistill.training.runs import TrainingFolder, latest_run, read_index, training_folder
from nanodistill.types import Split, Trace
from training.tiny import Rows, make_config, make_student, some_rows

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 2, "gradient_accumulation_steps": 2, "gradient_checkpointing": True,
    "random_seed": 3, "logging_steps": 1, "eval_steps": 2,
}  # fmt: skip


@dataclass
class Watched:
    """A listener that keeps what it is told."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@dataclass
class Trained:
    config: DistillationConfig
    result: TrainingResult
    watched: Watched

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.config.run_folder)

    @property
    def folder(self) -> TrainingFolder:
        return training_folder(self.run, self.result.run)


def train_rows(config: DistillationConfig, rows: Rows, **more: Any) -> TrainingResult:
    dataset = cast("DatasetVersion", rows)
    return train(config, dataset, RunFolder(config.run_folder), **more)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("trainer") / "student")


@pytest.fixture(scope="module")
def trained(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = make_config(student, tmp_path_factory.mktemp("out"), **SETTINGS)
    watched = Watched()
    return Trained(config, train_rows(config, some_rows(), on_event=watched), watched)


def test_the_result_says_what_was_done(trained: Trained) -> None:
    result = trained.result.to_json()
    assert {name: result[name] for name in ("steps", "epochs", "rows", "resumed_from")} == {
        "steps": 6,
        "epochs": 2.0,
        "rows": {"train": 22, "valid": 6, "dropped": 0},
        "resumed_from": None,
    }
    assert result["dataset"]["fingerprint"] == "f" * 64
    assert result["best"]["loss"] < 5.4
    assert result["adapter"] == str(trained.folder.adapter)
    assert json.loads(json.dumps(result)) == result
    assert "Trained 6 updates (2 epochs of 22 rows)" in trained.result.summary()


def test_the_adapter_is_one_that_mlx_lm_loads_and_helps(trained: Trained, student: Path) -> None:
    import mlx.core as mx
    from mlx_lm import load

    base, tokenizer = load(str(student))[:2]
    tuned = load(str(student), adapter_path=str(trained.folder.adapter))[0]
    row = some_rows().splits["train"][0]
    tokens = mx.array([tokenizer.apply_chat_template(row["messages"], return_dict=False)])
    answer = slice(-len(row["output"]) - 3, -2)

    def loss(model: Any) -> float:
        logits = model(tokens[:, :-1])[0]
        rows = -(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        picked = mx.take_along_axis(rows, tokens[0, 1:, None], axis=1)
        return float(picked[answer].mean())

    assert loss(tuned) < loss(base) - 0.2


def test_the_record_tells_each_update(trained: Trained) -> None:
    records = read_records(trained.folder.metrics)
    assert [r["update"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["update"] for r in records if r["kind"] == "valid"] == [0, 2, 4, 6]
    assert records[-1] | {"kind": "ended", "update": 6, "how": "done"} == records[-1]
    last = [r for r in records if r["kind"] == "train"][-1]
    assert (last["rows"], last["epoch"], last["total"]) == (44, 2.0, 6)
    assert last["memory_gb"] > 0.05


def test_the_checkpoint_says_what_its_bits_depend_on(trained: Trained) -> None:
    (last,) = trained.folder.checkpoints.glob("0000006")
    machine = read_json(last / "state.json")["machine"]
    assert machine["gradient checkpointing"] is True
    assert {"blas", "threads", "mlx", "mlx-lm", "device", "batch"} <= set(machine)


def test_who_watches_sees_the_same(trained: Trained) -> None:
    progress = [event for event in trained.watched.events if isinstance(event, Progress)]
    done = [event.done for event in progress]
    assert (sorted(done), set(done)) == (done, set(range(1, 7)))
    validations = [r for r in read_records(trained.folder.metrics) if r["kind"] == "valid"]
    assert progress[-1].figures["valid"] == validations[-1]["loss"]
    assert all(event.stage == "train" for event in progress)
    assert {"loss", "smoothed", "valid", "learning rate", "tokens/s", "memory GiB"} == set(
        progress[-1].figures
    )
    assert isinstance(trained.watched.events[0], Table)
    assert "after update 0: validation loss 5.4" in " ".join(trained.watched.notices)


def test_the_same_run_is_saved_for_mlx_lms_command_line(trained: Trained) -> None:
    import yaml  # type: ignore[import-untyped]
    from mlx_lm.lora import CONFIG_DEFAULTS, yaml_loader

    written = yaml.load(trained.folder.yaml.read_text(), yaml_loader)
    assert set(written) <= set(CONFIG_DEFAULTS)
    assert (written["iters"], written["batch_size"], written["seed"]) == (12, 4, 3)


def test_mlx_lms_own_command_trains_what_is_saved_for_it(student: Path, tmp_path: Path) -> None:
    """The same modules in the same layers, with names and a depth that it does not take itself."""
    settings = {"target_modules": ["q_proj", "self_attn.v_proj"], "lora_layers": 16}
    config = make_config(student, tmp_path, mlx_lm_kwargs={"max_steps": 2}, **settings)
    result = train(config, cast("DatasetVersion", some_rows(8)), RunFolder(config.run_folder))
    folder = training_folder(RunFolder(config.run_folder), result.run)
    for name, rows in some_rows(8, valid=4).splits.items():
        lines = [json.dumps({"messages": row["messages"]}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    stock = tmp_path / "stock"
    words = ["lora", "-c", str(folder.yaml), "--train", "--data", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", *words, "--adapter-path", str(stock)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs, ours = (
        {name: array.shape for name, array in load((path / WEIGHTS).read_bytes()).items()}
        for path in (stock, folder.adapter)
    )
    assert theirs == ours


def test_the_resolved_configuration_is_saved(trained: Trained) -> None:
    saved = read_json(trained.folder.config)
    assert saved["settings"]["batch_size"] == 4
    assert saved["seed"] == 3
    left = set(preset(detect_hardware())[1]) - trained.config.model_fields_set
    assert set(saved["presets"]) == left


def test_the_index_names_the_run_and_its_dataset(trained: Trained, student: Path) -> None:
    found = latest_run(trained.run)
    assert found is not None
    entry, folder = found
    assert folder == trained.folder
    assert (entry.dataset_fingerprint, entry.student) == ("f" * 64, str(student))
    assert read_json(trained.run.training / "index.json")["latest"] == trained.result.run


def test_a_finished_run_is_not_trained_again(trained: Trained) -> None:
    before = trained.folder.metrics.read_bytes()
    watched = Watched()
    again = train_rows(trained.config, some_rows(), on_event=watched)
    assert again == trained.result
    assert trained.folder.metrics.read_bytes() == before
    assert watched.notices == [f"training run {trained.result.run} is already finished"]


def test_a_dry_run_trains_nothing(trained: Trained, student: Path, tmp_path: Path) -> None:
    config = make_config(student, tmp_path, **SETTINGS)
    planned = train_rows(config, some_rows(), dry_run=True)
    assert planned.run == trained.result.run, "the same work, wherever it is done"
    assert (planned.steps, planned.adapter, planned.metrics) == (6, None, None)
    assert planned.preflight["updates"] == 6
    assert not (tmp_path / "tiny").exists()


def test_stopping_and_going_on_is_the_same_run(student: Path, tmp_path: Path) -> None:
    # Long enough that a busy machine hears of the stop before the last update.
    settings = {**SETTINGS, "num_train_epochs": 10}
    whole = make_config(student, tmp_path / "whole", **settings)
    config = make_config(student, tmp_path / "stopped", **settings)
    stop = threading.Event()

    def stop_at_two(event: Event) -> None:
        if isinstance(event, Progress) and event.done >= 2:
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        train_rows(config, some_rows(), on_event=stop_at_two, stop=stop)
    resumed, at_once = train_rows(config, some_rows()), train_rows(whole, some_rows())
    assert resumed.resumed_from in range(2, 30)
    assert resumed.steps == at_once.steps == 30
    mine, theirs = (Path(str(run.adapter)) / WEIGHTS for run in (resumed, at_once))
    assert mine.read_bytes() == theirs.read_bytes()


def test_a_change_is_a_new_run_beside_the_old(
    trained: Trained, student: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "lora_rank": 2, "mlx_lm_kwargs": {"max_steps": 1}}
    config = make_config(student, tmp_path, **settings)
    first = train_rows(config, some_rows())
    other = Rows(some_rows().splits, fingerprint="e" * 64)
    second = train_rows(config, other)
    assert len({first.run, second.run, trained.result.run}) == 3
    run = RunFolder(config.run_folder)
    assert [entry.run for entry in read_index(run)] == [first.run, second.run]
    train_rows(config, some_rows())
    assert [entry.run for entry in read_index(run)] == [second.run, first.run], "asked for last"


def test_a_dataset_version_is_what_it_takes(student: Path, tmp_path: Path) -> None:
    rows: list[tuple[Split, Trace]] = [
        ("valid" if n % 4 == 0 else "train", Trace(f"{n} it broke", "bug", "synthetic"))
        for n in range(12)
    ]
    config = make_config(student, tmp_path)
    run = RunFolder(config.run_folder)
    version = make_dataset(run, rows)
    planned = train(config, version, run, dry_run=True)
    assert planned.rows == {"train": 9, "valid": 3, "dropped": 0}
    assert planned.dataset == {
        "path": str(version.path),
        "version": version.name,
        "fingerprint": version.fingerprint,
    }


def test_a_second_command_is_refused(student: Path, tmp_path: Path) -> None:
    config = make_config(student, tmp_path, **SETTINGS)
    with (
        RunFolder(config.run_folder).locked("train"),
        pytest.raises(RunLockedError, match="another process is working"),
    ):
        train_rows(config, some_rows())
