"""The student of a run: the same model, asked in the same way, as long as the run lasts.

    training/student.json
        template_date       the date that a dated chat template writes, on whatever day
        same_as             identities of students that earlier releases called otherwise

A date is fixed when it is first needed. Earlier releases knew a student's folder by
its weights alone: where the tokens of such a run are still those that the folder's
tokenizer and template make, the student keeps its old identity in this run, and with
it all that was trained, answered and exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.dataset.read import open_folder
from nanodistill.errors import NanoDistillError
from nanodistill.models.chat_templates import has_template, is_dated, read_template, with_date
from nanodistill.models.resolve import ResolvedModel, resolve_model
from nanodistill.run_dir import read_json, write_json
from nanodistill.training.runs import read_index, training_folder
from nanodistill.training.tokenize import load_tokenizer, load_tokens, tokenize_rows

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.events import Listener
    from nanodistill.run_dir import RunFolder
    from nanodistill.training.runs import TrainingFolder

ROWS_COMPARED = 64


def find_student(config: DistillationConfig, run: RunFolder, on_event: Listener) -> ResolvedModel:
    """The student of `config`, by the identity that `run` knows it by.

    Raises:
        ModelError: it is not there.
    """
    model = resolve_model(config.student, listener=on_event)
    if model.by_weights is None:
        return model
    same_as = _remembered(run).get("same_as", {})
    if model.identity in same_as:
        return replace(model, identity=same_as[model.identity])
    if model.by_weights in same_as.values() or not _is_of_earlier_runs(model, run):
        return model
    _remember(run, same_as={**same_as, model.identity: model.by_weights})
    return replace(model, identity=model.by_weights)


def tokenizer_settings(
    kwargs: Mapping[str, Any], folder: Path, run: RunFolder
) -> Mapping[str, Any]:
    """`tokenizer_kwargs` for the model in `folder`, with the run's date in a dated template."""
    template = kwargs.get("chat_template")
    if template is None and has_template(folder):
        template = read_template(folder)
    if not isinstance(template, str) or not is_dated(template):
        return kwargs
    return {**kwargs, "chat_template": with_date(template, template_date(run))}


def template_date(run: RunFolder) -> datetime:
    """The date in this run's prompts: fixed now, unless it was before."""
    held = _remembered(run).get("template_date")
    if held is not None:
        return datetime.fromisoformat(held)
    date = _date_of_rows(run) or datetime.now()
    _remember(run, template_date=date.isoformat(timespec="seconds"))
    return date.replace(microsecond=0)


def _date_of_rows(run: RunFolder) -> datetime | None:
    """When the latest training's rows were made: earlier releases wrote that day's date."""
    for entry in reversed(read_index(run)):
        rows = training_folder(run, entry.run).rows
        if rows.is_file():
            return datetime.fromtimestamp(rows.stat().st_mtime)
    return None


def _is_of_earlier_runs(model: ResolvedModel, run: RunFolder) -> bool:
    """Whether an earlier release trained this student here, with the files that it has now."""
    entries = [each for each in read_index(run) if each.student_identity == model.by_weights]
    return bool(entries) and _has_same_tokens(model, training_folder(run, entries[-1].run), run)


def _has_same_tokens(model: ResolvedModel, folder: TrainingFolder, run: RunFolder) -> bool:
    """Whether the first rows of a training are made of the tokens that they are now; so too where
    that can't be told any more, its rows or its dataset being gone."""
    if not folder.rows.is_file() or not folder.config.is_file():
        return True
    trained = read_json(folder.config)
    settings = trained["settings"]
    try:
        rows = islice(open_folder(Path(trained["dataset"]["path"])).rows("train"), ROWS_COMPARED)
        kwargs = tokenizer_settings(settings["tokenizer_kwargs"], model.path, run)
        tokenizer = load_tokenizer(model.path, kwargs)
        found = tokenize_rows(list(rows), tokenizer, settings["train_on"]).examples
    except NanoDistillError:
        return True
    fitting = [e for e in found if len(e.tokens) <= settings["max_seq_length"]]
    held = load_tokens(folder.rows)["train"]
    return all(
        list(example.tokens) == held[row].tolist()
        for row, example in enumerate(fitting[: len(held)])
    )


def _remembered(run: RunFolder) -> dict[str, Any]:
    path = _path(run)
    return read_json(path) if path.is_file() else {}


def _remember(run: RunFolder, **values: Any) -> None:
    write_json(_path(run), {**_remembered(run), **values})


def _path(run: RunFolder) -> Path:
    return run.training / "student.json"
