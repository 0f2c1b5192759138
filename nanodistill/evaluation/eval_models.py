"""Who is compared: models, each with what decides its answers.

The student that is judged: the latest training's adapter, unless another one is named.
"""

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
DISPLAY_NAMES = {
    BASE: "base",
    FEW_SHOT: "base with seeds as examples",
    STUDENT: "student",
    TEACHER: "teacher",
}


@dataclass(frozen=True)
class EvalModel:
    """A model, the adapter on it, and the turns it is shown before each prompt.

    `tokenizer_kwargs` go to the loader of its tokenizer.
    """

    name: str
    model: ResolvedModel | Endpoint
    adapter: Path | None = None
    shots: tuple[Message, ...] = ()
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """Names weights and adapter exactly."""
        if self.adapter is None:
            return self.model.identity
        return f"{self.model.identity}+adapter-sha256:{adapter_sha256(self.adapter)}"

    def keys(self, rows: Sequence[EvalExample], max_new_tokens: int) -> list[str]:
        """For each row, the hash of all that decides the answer to it."""
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
            f"{folder} holds no adapter: it has no {' and no '.join(missing)}.",
            next_step="Name the adapters folder of a training run.",
        )
    return files_sha256(files)


TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class StudentRef:
    """The student, and the name under which its results are kept.

    `entry` is the training run of ours that it came from, if it did.
    """

    run: str
    contender: EvalModel
    train_on: TrainOn
    entry: RunEntry | None


def find_student_ref(
    config: DistillationConfig,
    run: RunFolder,
    base: ResolvedModel,
    named: Path | str | Endpoint | None,
    on_event: Listener,
) -> StudentRef:
    """The student to judge.

    Args:
        named: an adapter's folder (Path), a model's name (str), an endpoint, or None for the
            run's latest training of `base`, on what `train_on` says where there is one.

    Raises:
        InputError: nothing was trained yet.
        ModelError: what was named is no adapter or no model.
    """
    if isinstance(named, Endpoint):
        contender = EvalModel(STUDENT, named)
        return StudentRef(_name(named.name, contender), contender, config.train_on, None)
    if isinstance(named, str):
        model = resolve_model(named, on_event=on_event)
        kwargs = tokenizer_settings(config.tokenizer_kwargs, model.path, run)
        contender = EvalModel(STUDENT, model, tokenizer_kwargs=kwargs)
        return StudentRef(_name(named, contender), contender, config.train_on, None)
    if named is None:
        entry = _latest(run, base, config.train_on)
        return _trained(entry, config, base, run, on_event)
    inside = named.resolve().parent
    known = [entry for entry in read_index(run) if inside == run.training.resolve() / entry.run]
    if known:
        return _trained(known[0], config, base, run, on_event)
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
    contender = EvalModel(STUDENT, base, named, tokenizer_kwargs=kwargs)
    return StudentRef(_name(named.name, contender), contender, config.train_on, None)


def dataset_of(entry: RunEntry, run: RunFolder) -> DatasetVersion:
    """The version that was trained on: by its fingerprint in this run, else by its name."""
    for version in repair_index(run).versions:
        if version.fingerprint == entry.dataset_fingerprint:
            return open_version(version.name, run)
    return open_version(entry.dataset, run)


def rows_trained_on(judged: EvalSet, dataset: DatasetVersion, trained: DatasetVersion) -> int:
    """How many of the rows to judge by were training rows: none within one version."""
    if trained.fingerprint == dataset.fingerprint:
        return 0
    seen = {canonical_text(row["input"]) for row in trained.rows("train")}
    return sum(canonical_text(row.input) in seen for row in judged.rows)


def _latest(run: RunFolder, base: ResolvedModel, train_on: TrainOn) -> RunEntry:
    entries = read_index(run)
    if not entries:
        raise InputError(
            f"{run.root} holds no trained student yet.",
            next_step="Train one first: nanodistill train RUN.toml",
        )
    own = [entry for entry in entries if entry.student_identity == base.identity]
    if not own:
        raise InputError(
            f"{run.root} holds no student trained on {base.name}; "
            f"the latest was trained on {entries[-1].student}.",
            next_step="Set student to the model that was trained, or train again: "
            "nanodistill train RUN.toml",
        )
    taught_so = [entry for entry in own if entry.train_on == train_on]
    return (taught_so or own)[-1]


def _trained(
    entry: RunEntry,
    config: DistillationConfig,
    base: ResolvedModel,
    run: RunFolder,
    on_event: Listener,
) -> StudentRef:
    folder = training_folder(run, entry.run)
    if not (folder.adapter / "adapters.safetensors").is_file():
        raise InputError(
            f"training run {entry.run} has written no adapter yet.",
            next_step="Let it end first: nanodistill train RUN.toml goes on where it stopped.",
        )
    if not folder.result.exists():
        on_event(Notice(f"training run {entry.run} has not ended; taking its best weights so far"))
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
    contender = EvalModel(STUDENT, base, folder.adapter, tokenizer_kwargs=kwargs)
    return StudentRef(entry.run, contender, cast("TrainOn", entry.train_on), entry)


def _name(name: str, contender: EvalModel) -> str:
    """A folder name for the results of what no training run of ours made."""
    stem = Path(name.rstrip("/")).name or "model"
    return f"{stem}-{tagged_hash('nanodistill.evaluated.v1', contender.identity)[:8]}"
