"""The fused model in model/, and the gate that it has to pass."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import TEMPLATE

from export.conftest import TrainedRun, answers, copied
from nanodistill.errors import InputError, VerificationError
from nanodistill.events import Event, Notice, ignore
from nanodistill.exporting import export
from nanodistill.exporting.export_manifest import read_manifest
from nanodistill.exporting.mlx_folder import repair
from nanodistill.exporting.pipeline import ExportRun
from nanodistill.exporting.targets import MlxTarget, Options
from nanodistill.exporting.trained_adapter import find_trained_adapter
from nanodistill.exporting.worker import Form
from nanodistill.run_dir import RunFolder, read_json, write_json


def weights(folder: Path) -> dict[str, Any]:
    import mlx.core as mx

    held: dict[str, Any] = mx.load(str(folder / "model.safetensors"))  # type: ignore[assignment]
    return held


def same(one: Any, other: Any) -> bool:
    import mlx.core as mx

    return one.dtype == other.dtype and bool(mx.array_equal(one, other))


@pytest.fixture(scope="module")
def exported(made: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run that was exported once."""
    run = copied(made, tmp_path_factory.mktemp("exported"))
    done = export(run.config(), run.run, to="mlx")
    assert (done.path, done.form, done.reused) == (run.run.model, "as base", False)
    return run


def test_an_export_answers_as_its_adapter(exported: TrainedRun) -> None:
    import mlx_lm

    inputs = [f"message {n}" for n in range(3)]
    with_adapter = answers(exported.model, exported.adapter, inputs)
    assert answers(exported.run.model, None, inputs) == with_adapter
    assert answers(exported.model, None, inputs) != with_adapter
    loaded, tokenizer = mlx_lm.load(str(exported.run.model))[:2]
    assert len(loaded.layers) == 2
    assert tokenizer.has_chat_template
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (exported.run.model / file).read_bytes() == (exported.model / file).read_bytes()


def test_exporting_again_finds_it_done(exported: TrainedRun) -> None:
    again = export(exported.config(), exported.run, to="mlx")
    assert again.reused
    assert again.parity is not None
    assert (again.parity.on, again.parity.n, again.parity.lost) == ("test", 12, 0)
    assert json.loads(json.dumps(again.to_json()))["parity"]["lost"] == 0
    assert {entry.name for entry in exported.run.root.iterdir() if entry.is_dir()} == {
        "datasets", "evaluation", "model", "training",
    }  # fmt: skip


def test_what_an_export_says_of_itself(exported: TrainedRun) -> None:
    manifest = read_manifest(exported.run.model)
    assert manifest is not None
    assert manifest.lineage.run == "r1"
    assert manifest.lineage.fingerprint == exported.dataset.fingerprint
    assert manifest.lineage.base_identity.startswith("files-sha256:")
    assert manifest.task.instruction == exported.dataset.manifest.instruction
    assert manifest.parity is not None
    assert manifest.parity["exported"] == 100
    for file in exported.run.model.glob("*.json"):
        assert str(exported.root.parent) not in file.read_text(encoding="utf-8")


def test_tokenizer_kwargs_are_written_into_the_files(trained: TrainedRun) -> None:
    """Who loads the folder asks as the student was trained, without knowing the run file."""
    import mlx_lm

    kwargs = {"chat_template": "!" + TEMPLATE, "padding_side": "left", "trust_remote_code": False}
    done = export(trained.config(tokenizer_kwargs=kwargs), trained.run, to="mlx")
    assert done.parity is not None
    assert done.parity.lost == 0
    _, tokenizer = mlx_lm.load(str(done.path))[:2]
    assert (tokenizer.chat_template, tokenizer.padding_side) == ("!" + TEMPLATE, "left")
    assert "trust_remote_code" not in read_json(done.path / "tokenizer_config.json")
    assert not export(trained.config(), trained.run, to="mlx").reused


def test_a_packed_base_is_left_packed_where_nothing_was_learned(packed: TrainedRun) -> None:
    """Four bits erase this adapter, eight bits most of it: the gate goes on to the last form."""
    said: list[Event] = []
    done = export(packed.config(), packed.run, to="mlx", on_event=said.append)
    assert done.parity is not None
    assert (done.form, done.parity.lost) == ("unquantized", 0)
    warnings = [e.text for e in said if isinstance(e, Notice) and e.level == "warning"]
    assert [text.partition(":")[0] for text in warnings] == ["as base", "8 bits"]

    base, exported = weights(packed.model), weights(done.path)
    touched = {name.rpartition(".")[0] for name in exported if name.endswith("proj.weight")}
    assert len(touched) == 14
    assert not any(f"{path}.scales" in exported for path in touched)
    kept = [name for name in base if name.rpartition(".")[0] not in touched]
    assert "model.embed_tokens.scales" in kept
    assert all(same(base[name], exported[name]) for name in kept)


@dataclass(frozen=True)
class Forgetful(MlxTarget):
    """Leaves the adapter out."""

    def build(self, form: Form, folder: Path) -> None:
        shutil.copytree(self.source.base.path, folder, dirs_exist_ok=True)


def test_a_failed_gate_leaves_the_old_model(trained: TrainedRun) -> None:
    trained.run.model.mkdir()
    (trained.run.model / "old").touch()
    config = trained.config()
    source = find_trained_adapter(config, trained.run, None, None, ignore)
    target = Forgetful(trained.run.model, source, Options(), "mlx")
    with pytest.raises(VerificationError, match="worse than the adapter by more than") as failed:
        ExportRun(config, trained.run, source, target, ignore).make()
    assert "as base: exact match 0.0 against 100.0 with the adapter" in failed.value.message
    assert "left as it was" in failed.value.message
    assert [file.name for file in trained.run.model.iterdir()] == ["old"]
    assert not list(trained.run.root.glob(".model.*"))


def test_a_crash_between_the_renames_is_mended(tmp_path: Path) -> None:
    place = tmp_path / "model"
    (tmp_path / ".model.old").mkdir()
    repair(place)
    assert place.is_dir()
    (tmp_path / ".model.old").mkdir()
    repair(place)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_nothing_to_export(trained: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained student yet"):
        export(trained.config(), RunFolder(tmp_path / "empty"), to="mlx")
    with pytest.raises(InputError, match="no training run r7; there are r1"):
        export(trained.config(), trained.run, to="mlx", run_id="r7")
    index = trained.run.training / "index.json"
    values = json.loads(index.read_text())
    values["runs"][0]["student_identity"] = "files-sha256:other"
    write_json(index, values)
    with pytest.raises(InputError, match="is another model, or the same with other weights"):
        export(trained.config(), trained.run, to="mlx")
