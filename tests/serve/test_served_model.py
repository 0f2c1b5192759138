"""Which model is served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from evaluation.tiny import INSTRUCTION

from nanodistill.errors import InputError
from nanodistill.events import ignore
from nanodistill.exporting.export_manifest import ExportManifest
from nanodistill.exporting.trained_adapter import find_trained_adapter
from nanodistill.run_dir import RunFolder
from nanodistill.serve.served_model import find_served_model
from nanodistill.thinking import FORMATS
from serve.conftest import Student, make_student


@pytest.fixture
def fresh(tmp_path: Path) -> Student:
    return make_student(tmp_path)


def put_exported(student: Student, of_run: str) -> None:
    """What an export of the training run `of_run` leaves in model/, but for the weights."""
    source = find_trained_adapter(student.config, student.run, None, None, ignore)
    manifest = ExportManifest.of(
        student.config, source, to="mlx", form="as base", key="k", baked=False, parity=None
    )
    lineage = manifest.lineage.model_copy(update={"run": of_run})
    student.run.model.mkdir(exist_ok=True)
    manifest.model_copy(update={"lineage": lineage}).write(student.run.model)


def test_the_exported_model_if_it_is_of_the_latest_run(fresh: Student) -> None:
    trained = find_served_model(fresh.config, fresh.run, ignore)
    assert trained.adapter == fresh.run.training / "r1" / "adapters"
    assert trained.description == "the adapter of training run r1 on model"
    put_exported(fresh, "r1")
    exported = find_served_model(fresh.config, fresh.run, ignore)
    assert (exported.model, exported.adapter) == (fresh.run.model, None)
    for each in (trained, exported):
        assert each.instruction == INSTRUCTION
        assert each.thinking_format is FORMATS["none"]
        assert each.max_new_tokens == 8
    put_exported(fresh, "r0")
    assert find_served_model(fresh.config, fresh.run, ignore) == trained


def test_tokenizer_kwargs_reach_the_tokenizer(fresh: Student) -> None:
    config = fresh.config.model_copy(update={"tokenizer_kwargs": {"padding_side": "left"}})
    sides = [find_served_model(c, fresh.run, ignore).load(ignore).tokenizer.padding_side
             for c in (fresh.config, config)]  # fmt: skip
    assert sides == ["right", "left"]


def test_an_exported_model_that_came_from_elsewhere(fresh: Student, tmp_path: Path) -> None:
    put_exported(fresh, "r9")
    pulled = RunFolder(tmp_path / "pulled")
    shutil.copytree(fresh.run.model, pulled.model)
    assert find_served_model(fresh.config, pulled, ignore).model == pulled.model


def test_nothing_to_serve(fresh: Student, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained student and no exported model"):
        find_served_model(fresh.config, RunFolder(tmp_path / "empty"), ignore)
