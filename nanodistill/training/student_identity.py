"""The student of a run stays the same model, prompted the same way, as long as the run lasts.

    training/student.json
        template_date    the date that a dated chat template writes, on any later day
        same_as          identities under which earlier releases knew a student

The date is fixed when it is first needed. Earlier releases identified a student's
folder by its weights alone. If the tokens of such a run are still what the folder's
tokenizer and template produce, the student keeps its old identity in this run, and
everything trained, answered and exported with it stays valid.
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

# Rows compared with those of an earlier training. A changed tokenizer or template shows in the
# first row; these are some seconds' work.
ROWS_COMPARED = 64


def find_student(config: DistillationConfig, run: RunFolder, on_event: Listener) -> ResolvedModel:
    """The student of `config`, under the identity that `run` knows it by.

    Raises:
        ModelError: it can't be found.
    """
    model = resolve_model(config.student, on_event=on_event)
    if model.weights_identity is None:
        return model
    same_as = _read(run).get("same_as", {})
    if model.identity in same_as:
        return replace(model, identity=same_as[model.identity])
    entries = [e for e in read_index(run) if e.student_identity == model.weights_identity]
    if model.weights_identity in same_as.values() or not entries:
        return model
    if not _has_same_tokens(model, training_folder(run, entries[-1].run), run):
        return model
    _write(run, same_as={**same_as, model.identity: model.weights_identity})
    return replace(model, identity=model.weights_identity)


def tokenizer_settings(
    kwargs: Mapping[str, Any], folder: Path, run: RunFolder
) -> Mapping[str, Any]:
    """`tokenizer_kwargs` for the model in `folder`, with the run's date in a dated template."""
    template = kwargs.get("chat_template")
    if template is None and has_template(folder):
        template = read_template(folder)
    if not isinstance(template, str) or not is_dated(template):
        return kwargs
    return {**kwargs, "chat_template": with_date(template, _template_date(run))}


def _template_date(run: RunFolder) -> datetime:
    """The date in this run's prompts, fixed now if it never was."""
    fixed = _read(run).get("template_date")
    if fixed is not None:
        return datetime.fromisoformat(fixed)
    date = datetime.now()
    for entry in reversed(read_index(run)):
        rows = training_folder(run, entry.run).rows
        if rows.is_file():  # earlier releases wrote the date of the day they tokenized
            date = datetime.fromtimestamp(rows.stat().st_mtime)
            break
    _write(run, template_date=date.isoformat(timespec="seconds"))
    return date.replace(microsecond=0)


def _has_same_tokens(model: ResolvedModel, folder: TrainingFolder, run: RunFolder) -> bool:
    """Whether the first rows of a training tokenize as they did then.

    True also if that can't be told because rows or dataset are gone.
    """
    if not folder.rows.is_file() or not folder.config.is_file():
        return True
    trained = read_json(folder.config)
    settings = trained["settings"]
    try:
        rows = islice(open_folder(Path(trained["dataset"]["path"])).rows("train"), ROWS_COMPARED)
        kwargs = tokenizer_settings(settings["tokenizer_kwargs"], model.path, run)
        tokenizer = load_tokenizer(model.path, kwargs)
        examples = tokenize_rows(list(rows), tokenizer, settings["train_on"]).examples
    except NanoDistillError:
        return True
    fitting = [e for e in examples if len(e.tokens) <= settings["max_seq_length"]]
    saved = load_tokens(folder.rows)["train"]
    return all(
        list(example.tokens) == saved[row].tolist()
        for row, example in enumerate(fitting[: len(saved)])
    )


def _read(run: RunFolder) -> dict[str, Any]:
    path = run.training / "student.json"
    return read_json(path) if path.is_file() else {}


def _write(run: RunFolder, **values: Any) -> None:
    write_json(run.training / "student.json", {**_read(run), **values})
