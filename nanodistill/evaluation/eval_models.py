"""The compared models, and the hash of everything that decides their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.dataset.read import repair_index
from nanodistill.errors import InputError, ModelError
from nanodistill.evaluation.endpoint import Endpoint
from nanodistill.evaluation.eval_set import EvalExample, EvalSet
from nanodistill.events import Listener, Notice
from nanodistill.models.cache import files_sha256
from nanodistill.models.resolve import ResolvedModel, resolve_model
from nanodistill.run_dir import RunFolder
from nanodistill.training.runs import RunEntry, read_index, training_folder
from nanodistill.training.student_identity import tokenizer_settings
from nanodistill.types import Message, canonical_text, tagged_hash

STUDENT, BASE, FEW_SHOT, TEACHER = "student", "base", "base_few_shot", "teacher"
LINEAR, SEEDS_ONLY = "linear", "student_on_seeds"
# Every model that results may name, as people read it. A new baseline starts here.
DISPLAY_NAMES = {
    BASE: "base",
    FEW_SHOT: "base with seeds as examples",
    STUDENT: "student",
    TEACHER: "teacher",
    LINEAR: "linear classifier",
    SEEDS_ONLY: "student trained on the seeds alone",
}

TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class EvalModel:
    """A model that generates answers.

    Attributes:
        name: a key of `DISPLAY_NAMES`.
        shots: chat turns between the system message and the row's input.
        tokenizer_kwargs: passed to the tokenizer's loader.
    """

    name: str
    model: ResolvedModel | Endpoint
    adapter: Path | None = None
    shots: tuple[Message, ...] = ()
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """Identifies weights and adapter by content."""
        if self.adapter is None:
            return self.model.identity
        return f"{self.model.identity}+adapter-sha256:{adapter_sha256(self.adapter)}"

    def keys(self, rows: Sequence[EvalExample], max_new_tokens: int) -> list[str]:
        """For each row, the hash of everything that decides its answer."""
        # Left out if empty: keys of releases without this field must still match.
        tokenizer = {"tokenizer_kwargs": self.tokenizer_kwargs} if self.tokenizer_kwargs else {}
        return [
            tagged_hash(
                "nanodistill.answer.v1",
                {
                    "model": self.identity,
                    "shots": self.shots,
                    "messages": row.messages,
                    "max_new_tokens": max_new_tokens,
                    **tokenizer,
                },
            )
            for row in rows
        ]


def display_name(model: ResolvedModel | Endpoint) -> str:
    """The model's name without folders of this machine."""
    if isinstance(model, Endpoint):
        return model.name
    return Path(model.name).name if model.kind in ("gguf", "folder") else model.name


def adapter_sha256(folder: Path) -> str:
    """Hash of an adapter's weights and settings.

    Raises:
        ModelError: the folder holds no adapter.
    """
    files = [folder / "adapters.safetensors", folder / "adapter_config.json"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder} holds no adapter: {' and '.join(missing)} missing.",
            next_step="Pass the adapters folder of a training run.",
        )
    return files_sha256(files)


@dataclass(frozen=True)
class StudentRef:
    """The student to evaluate.

    `run` names its results folder; `entry` is its training run, None for a model that was
    not trained in this run folder.
    """

    run: str
    eval_model: EvalModel
    train_on: TrainOn
    entry: RunEntry | None


def find_student_ref(
    config: DistillationConfig,
    run: RunFolder,
    base: ResolvedModel,
    override: Path | str | Endpoint | None,
    on_event: Listener,
) -> StudentRef:
    """The student to evaluate.

    Args:
        override: an adapter folder (Path), a model name (str) or an endpoint. None takes the
            latest training run of `base`, preferring one with the config's `train_on`.

    Raises:
        InputError: nothing has been trained yet.
        ModelError: `override` is not an adapter or a model.
    """
    if override is None:
        entry = _latest_entry(run, base, config.train_on)
        return _from_training(entry, config, base, run, on_event)
    if isinstance(override, Endpoint):
        name, model = override.name, EvalModel(STUDENT, override)
    elif isinstance(override, str):
        resolved = resolve_model(override, on_event=on_event)
        kwargs = tokenizer_settings(config.tokenizer_kwargs, resolved.path, run)
        name, model = override, EvalModel(STUDENT, resolved, tokenizer_kwargs=kwargs)
    else:
        parent = override.resolve().parent
        for entry in read_index(run):
            if parent == run.training.resolve() / entry.run:
                return _from_training(entry, config, base, run, on_event)
        kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
        name, model = override.name, EvalModel(STUDENT, base, override, tokenizer_kwargs=kwargs)
    stem = Path(name.rstrip("/")).name or "model"
    results_name = f"{stem}-{tagged_hash('nanodistill.evaluated.v1', model.identity)[:8]}"
    return StudentRef(results_name, model, config.train_on, None)


def dataset_of(entry: RunEntry, run: RunFolder) -> DatasetVersion:
    """The dataset version of a training run: by fingerprint in this run folder, else by name."""
    for version in repair_index(run).versions:
        if version.fingerprint == entry.dataset_fingerprint:
            return open_version(version.name, run)
    return open_version(entry.dataset, run)


def rows_trained_on(examples: EvalSet, dataset: DatasetVersion, trained: DatasetVersion) -> int:
    """How many of the evaluation rows were training rows; 0 within one version."""
    if trained.fingerprint == dataset.fingerprint:
        return 0
    seen = {canonical_text(row["input"]) for row in trained.rows("train")}
    return sum(canonical_text(row.input) in seen for row in examples.rows)


def _latest_entry(run: RunFolder, base: ResolvedModel, train_on: TrainOn) -> RunEntry:
    entries = read_index(run)
    if not entries:
        raise InputError(
            f"{run.root} holds no trained student yet.",
            next_step="Train one first: nanodistill train RUN.toml",
        )
    own = [entry for entry in entries if entry.student_identity == base.identity]
    if not own:
        raise InputError(
            f"student: {run.root} holds no student trained on {base.name}; "
            f"the latest was trained on {entries[-1].student}.",
            next_step="Set student to the trained model, or train this one: "
            "nanodistill train RUN.toml",
        )
    return ([entry for entry in own if entry.train_on == train_on] or own)[-1]


def _from_training(
    entry: RunEntry,
    config: DistillationConfig,
    base: ResolvedModel,
    run: RunFolder,
    on_event: Listener,
) -> StudentRef:
    folder = training_folder(run, entry.run)
    if not (folder.adapter / "adapters.safetensors").is_file():
        raise InputError(
            f"training run {entry.run} has not written an adapter yet.",
            next_step="Resume it first: nanodistill train RUN.toml",
        )
    if not folder.result.exists():
        on_event(Notice(f"training run {entry.run} is unfinished; using its best weights so far"))
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
    model = EvalModel(STUDENT, base, folder.adapter, tokenizer_kwargs=kwargs)
    return StudentRef(entry.run, model, cast("TrainOn", entry.train_on), entry)
