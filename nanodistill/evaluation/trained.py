"""The student that is judged: the latest training's adapter, unless another one is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.dataset.index import heal_index
from nanodistill.errors import InputError
from nanodistill.evaluation.contenders import STUDENT, Contender
from nanodistill.evaluation.endpoint import Endpoint
from nanodistill.evaluation.prompts import JudgedSet
from nanodistill.events import Listener, Notice
from nanodistill.models.resolve import ResolvedModel, resolve_model
from nanodistill.records import canonical_text, tagged_hash
from nanodistill.runfolder import RunFolder
from nanodistill.training.runs import RunEntry, read_index, training_folder
from nanodistill.training.student import tokenizer_settings

TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class Candidate:
    """The student, and the name under which its results are kept.

    `entry` is the training run of ours that it came from, if it did.
    """

    run: str
    contender: Contender
    train_on: TrainOn
    entry: RunEntry | None


def find_candidate(
    config: DistillationConfig,
    run: RunFolder,
    base: ResolvedModel,
    named: Path | str | Endpoint | None,
    listen: Listener,
) -> Candidate:
    """The student to judge.

    Args:
        named: an adapter's folder (Path), a model's name (str), an endpoint, or None for the
            run's latest training of `base`, on what `train_on` says where there is one.

    Raises:
        InputError: nothing was trained yet.
        ModelError: what was named is no adapter or no model.
    """
    if isinstance(named, Endpoint):
        contender = Contender(STUDENT, named)
        return Candidate(_name(named.name, contender), contender, config.train_on, None)
    if isinstance(named, str):
        model = resolve_model(named, listener=listen)
        kwargs = tokenizer_settings(config.tokenizer_kwargs, model.path, run)
        contender = Contender(STUDENT, model, tokenizer_kwargs=kwargs)
        return Candidate(_name(named, contender), contender, config.train_on, None)
    if named is None:
        entry = _latest(run, base, config.train_on)
        return _trained(entry, config, base, run, listen)
    inside = named.resolve().parent
    known = [entry for entry in read_index(run) if inside == run.training.resolve() / entry.run]
    if known:
        return _trained(known[0], config, base, run, listen)
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
    contender = Contender(STUDENT, base, named, tokenizer_kwargs=kwargs)
    return Candidate(_name(named.name, contender), contender, config.train_on, None)


def dataset_of(entry: RunEntry, run: RunFolder) -> DatasetVersion:
    """The version that was trained on: by its fingerprint in this run, else by its name."""
    for version in heal_index(run).versions:
        if version.fingerprint == entry.dataset_fingerprint:
            return open_version(version.name, run)
    return open_version(entry.dataset, run)


def rows_trained_on(judged: JudgedSet, dataset: DatasetVersion, trained: DatasetVersion) -> int:
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
    listen: Listener,
) -> Candidate:
    folder = training_folder(run, entry.run)
    if not (folder.adapter / "adapters.safetensors").is_file():
        raise InputError(
            f"training run {entry.run} has written no adapter yet.",
            next_step="Let it end first: nanodistill train RUN.toml goes on where it stopped.",
        )
    if not folder.result.exists():
        listen(Notice(f"training run {entry.run} has not ended; taking its best weights so far"))
    kwargs = tokenizer_settings(config.tokenizer_kwargs, base.path, run)
    contender = Contender(STUDENT, base, folder.adapter, tokenizer_kwargs=kwargs)
    return Candidate(entry.run, contender, cast("TrainOn", entry.train_on), entry)


def _name(name: str, contender: Contender) -> str:
    """A folder name for the results of what no training run of ours made."""
    stem = Path(name.rstrip("/")).name or "model"
    return f"{stem}-{tagged_hash('nanodistill.evaluated.v1', contender.identity)[:8]}"
