"""A tiny student whose test rows want just what its adapter answers: losing that shows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.tiny import INSTRUCTION, make_adapter, make_dataset, make_model
from models.tiny import Tiny, byte_level, weights, write_gguf

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.evaluation.answer_generation import GenerationWorker
from nanodistill.evaluation.worker import GenerationJob, GenerationTask, TaskPrompt
from nanodistill.events import ignore
from nanodistill.models.gguf.convert import convert_gguf
from nanodistill.models.resolve import resolve_model
from nanodistill.run_dir import RunFolder
from nanodistill.training.runs import RunEntry, make_latest
from nanodistill.types import Message, Split, Trace

MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class TrainedRun:
    """A run with a finished training run in it."""

    root: Path
    model: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / "tiny")

    @property
    def dataset(self) -> DatasetVersion:
        return open_version(None, self.run)

    @property
    def adapter(self) -> Path:
        return self.run.training / "r1" / "adapters"

    def config(self, **fields: Any) -> DistillationConfig:
        given = {
            "name": "tiny",
            "seed": str(self.root / "there-is-no-such-file.jsonl"),
            "instruction": INSTRUCTION,
            "student": str(self.model),
            "output_dir": self.root,
            "thinking_format": "none",
            "metric": "exact",
            "max_new_tokens": MAX_NEW_TOKENS,
        }
        return DistillationConfig(**(given | fields))


def quantized(model: Path, folder: Path, bits: int = 4) -> Path:
    """The same model with `bits` bits, as mlx_lm.convert writes it."""
    import mlx.core as mx
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    loaded, config = load_model(model)
    loaded.set_dtype(mx.float16)
    packed, config = quantize_model(loaded, config, group_size=32, bits=bits)
    save_model(folder, packed)
    save_config(config, folder / "config.json")
    for file in model.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def trained_run(root: Path, model: Path, rows: int = 12) -> TrainedRun:
    """A run whose test rows have the adapter's own answers as gold ones."""
    made = TrainedRun(root, model)
    make_adapter(made.adapter, model)
    _weaken(made.adapter)
    inputs = [f"message {n}" for n in range(rows)]
    golds = answers(model, made.adapter, inputs)
    traces: list[tuple[Split, Trace]] = [
        ("test", Trace(given, gold, "user")) for given, gold in zip(inputs, golds, strict=True)
    ]
    traces += [("train", Trace(f"train {n}", "bug", "seed")) for n in range(2)]
    dataset = make_dataset(made.run, traces, labels=None)
    identity = resolve_model(str(model)).identity
    entry = RunEntry("r1", dataset.name, dataset.fingerprint, str(model), identity, "cot")
    make_latest(made.run, entry)
    return made


def _weaken(adapter: Path) -> None:
    """Make the adapter's change small beside the weights, as a trained one is."""
    from safetensors.numpy import load, save_file

    file = adapter / "adapters.safetensors"
    save_file({name: w * np.float32(0.05) for name, w in load(file.read_bytes()).items()}, file)


def answers(model: Path, adapter: Path | None, inputs: list[str]) -> list[str]:
    """What a model answers, stripped as outputs are."""
    prompts = tuple(
        TaskPrompt(
            str(n),
            (
                Message(role="system", content=INSTRUCTION),
                Message(role="user", content=given),
            ),
        )
        for n, given in enumerate(inputs)
    )
    task = GenerationTask(str(model), str(adapter) if adapter else None, (), prompts)
    with GenerationWorker(ignore) as generator:
        found = {a.key: a.text for a in generator.run(GenerationJob((task,), MAX_NEW_TOKENS, 16))}
    return [found[str(n)].strip() for n in range(len(inputs))]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    root = tmp_path_factory.mktemp("export")
    return trained_run(root, make_model(root / "model"))


@pytest.fixture
def trained(made: TrainedRun, tmp_path: Path) -> TrainedRun:
    """A run on a base in float32."""
    return copied(made, tmp_path)


@pytest.fixture(scope="session")
def made_packed(tmp_path_factory: pytest.TempPathFactory, made: TrainedRun) -> TrainedRun:
    root = tmp_path_factory.mktemp("packed")
    return trained_run(root, quantized(made.model, root / "model-4bit"))


@pytest.fixture
def packed(made_packed: TrainedRun, tmp_path: Path) -> TrainedRun:
    """A run on a base of 4 bits."""
    return copied(made_packed, tmp_path)


def as_folder(tmp_path: Path, tiny: Tiny, **tokenizer: Any) -> tuple[Path, Path]:
    """A GGUF file as llama.cpp's converter writes it, and the MLX folder made from it."""
    told = byte_level() | tokenizer
    file, folder = tmp_path / "theirs.gguf", tmp_path / "folder"
    write_gguf(file, tiny, weights(tiny, len(told["ggml.tokens"])), told)
    folder.mkdir()
    convert_gguf(file, folder)
    return file, folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run on a base that llama.cpp can load."""
    root = tmp_path_factory.mktemp("llama")
    _, folder = as_folder(root, Tiny(hidden=128, heads=4, head_dim=32))
    return trained_run(root, folder)


def copied(made: TrainedRun, folder: Path) -> TrainedRun:
    copy = TrainedRun(folder / made.model.name, made.model)
    shutil.copytree(made.run.root, copy.run.root)
    return copy
