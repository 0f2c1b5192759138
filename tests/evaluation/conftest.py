"""A tiny trained student, shared, and copied for tests that write into its run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evaluation.tiny import INSTRUCTION, make_adapter, make_dataset, make_model, some_rows
from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.evaluation import evaluate
from nanodistill.models.resolve import resolve_model
from nanodistill.run_dir import RunFolder, write_json
from nanodistill.training.runs import RunEntry, make_latest, training_folder


@dataclass(frozen=True)
class TinyRun:
    """A run with a dataset version and a trained adapter. Its seed file does not exist."""

    root: Path
    model: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / "tiny")

    @property
    def dataset(self) -> DatasetVersion:
        return open_version(None, self.run)

    def trained(self, run_id: str, seed: int = 1, train_on: str = "cot") -> Path:
        """Leave what training leaves of a run on the latest dataset version."""
        folder = training_folder(self.run, run_id)
        make_adapter(folder.adapter, self.model, seed)
        write_json(folder.result, {"run": run_id})
        student = resolve_model(str(self.model))
        dataset = self.dataset
        entry = RunEntry(
            run_id, dataset.name, dataset.fingerprint, student.name, student.identity, train_on
        )
        make_latest(self.run, entry)
        return folder.adapter

    def config(self, **fields: Any) -> DistillationConfig:
        given = {
            "name": "tiny",
            "seed": str(self.root / "there-is-no-such-file.jsonl"),
            "instruction": INSTRUCTION,
            "student": str(self.model),
            "output_dir": self.root,
            "thinking_format": "none",
            "max_new_tokens": 6,
        }
        return DistillationConfig(**(given | fields))


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Evaluated too, so that most tests generate nothing."""
    root = tmp_path_factory.mktemp("evaluation")
    tiny = TinyRun(root, make_model(root / "model"))
    make_dataset(tiny.run, some_rows())
    tiny.trained("r1")
    evaluate(tiny.config(), tiny.dataset, tiny.run)
    return tiny


@pytest.fixture
def tiny(shared_run: TinyRun, tmp_path: Path) -> TinyRun:
    shutil.copytree(shared_run.run.root, tmp_path / "tiny")
    return TinyRun(tmp_path, shared_run.model)


@pytest.fixture
def unevaluated(tiny: TinyRun) -> TinyRun:
    """The same before its evaluation."""
    shutil.rmtree(tiny.run.evaluation)
    return tiny
