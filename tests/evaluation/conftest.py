"""A tiny trained student, made once and copied for tests that write into its run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evaluation.tiny import INSTRUCTION, make_adapter, make_dataset, make_model, some_rows
from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.runfolder import RunFolder, write_json


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
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    root = tmp_path_factory.mktemp("evaluation")
    tiny = TinyRun(root, make_model(root / "model"))
    make_dataset(tiny.run, some_rows())
    make_adapter(tiny.run.training / "r1" / "adapters", tiny.model)
    write_json(tiny.run.training / "index.json", {"latest": "r1"})
    return tiny


@pytest.fixture
def tiny(made: TinyRun, tmp_path: Path) -> TinyRun:
    shutil.copytree(made.run.root, tmp_path / "tiny")
    return TinyRun(tmp_path, made.model)
