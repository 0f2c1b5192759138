"""How training went: curves of loss and learning rate, and the figures beside them.

Of a long run every n-th update is drawn, so that the file stays small; validations are all
there, for they are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.errors import CorruptFileError
from nanodistill.reporting.report_tables import (
    Table,
    TableCell,
    code,
    facts,
    in_minutes,
    number,
    plural,
    text,
)
from nanodistill.reporting.scrub import without_folder
from nanodistill.run_dir import RunFolder, read_json
from nanodistill.training.metrics_log import Record, read_records
from nanodistill.training.runs import RunEntry, TrainingFolder, read_index, training_folder

DRAWN = 1000
SHOWN_SETTINGS = (
    "learning_rate", "lr_scheduler", "warmup_steps", "batch_size", "gradient_accumulation_steps",
    "num_train_epochs", "optimizer", "fine_tune_type", "lora_rank", "lora_layers", "lora_alpha",
    "max_seq_length", "train_on",
)  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """Points by update; None where there is no figure at that update.

    `chosen` is the update whose weights were taken.
    """

    updates: tuple[int, ...]
    loss: tuple[float | None, ...]
    smoothed: tuple[float | None, ...]
    valid: tuple[float | None, ...]
    score: tuple[float | None, ...]
    rate: tuple[float | None, ...]
    chosen: int | None


@dataclass(frozen=True)
class Training:
    """One training run. `said` is what its curve shows, for who can't see it."""

    run: str
    student: str
    state: str
    curves: Curves | None
    said: str
    figures: Table
    settings: Table | None
    validations: Table | None


def read_trainings(run: RunFolder, first: str | None) -> list[Training]:
    """The runs that left a record: the one called `first`, then the latest first.

    Raises:
        CorruptFileError: the record of one can't be read.
    """
    latest_first = read_index(run)[::-1]
    entries = sorted(latest_first, key=lambda entry: entry.run != first)
    return [_training(entry, training_folder(run, entry.run)) for entry in entries]


def _training(entry: RunEntry, folder: TrainingFolder) -> Training:
    try:
        return _of_records(entry, folder, read_records(folder.metrics))
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise CorruptFileError(
            f"{folder.root} does not hold what a training run writes ({wrong!r} in metrics.jsonl, "
            "result.json or config.json).",
            next_step="Move it away, or train again: nanodistill train RUN.toml",
        ) from wrong


def _of_records(entry: RunEntry, folder: TrainingFolder, records: Sequence[Record]) -> Training:
    trained = [record for record in records if record["kind"] == "train"]
    valid = [record for record in records if record["kind"] == "valid"]
    result = read_json(folder.result) if folder.result.exists() else None
    return Training(
        run=entry.run,
        student=without_folder(entry.student),
        state="ended" if result else "unfinished",
        curves=_curves(trained, valid) if trained else None,
        said=_said(trained, valid),
        figures=_figures(entry, trained, valid, result),
        settings=_settings(folder),
        validations=_validations(valid),
    )


def _curves(trained: Sequence[Record], valid: Sequence[Record]) -> Curves:
    step = -(-len(trained) // DRAWN)
    drawn = {record["update"]: record for record in (*trained[::step], trained[-1])}
    validated = {record["update"]: record for record in valid}
    updates = sorted({*drawn, *validated})
    return Curves(
        updates=tuple(updates),
        loss=_column(updates, drawn, "loss"),
        smoothed=_column(updates, drawn, "smoothed"),
        valid=_column(updates, validated, "loss"),
        score=_column(updates, validated, "score"),
        rate=_column(updates, drawn, "learning_rate"),
        chosen=max((record["update"] for record in valid if record["best"]), default=None),
    )


def _column(
    updates: Sequence[int], records: Mapping[int, Record], name: str
) -> tuple[float | None, ...]:
    return tuple(_short(records[n][name]) if n in records else None for n in updates)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _said(trained: Sequence[Record], valid: Sequence[Record]) -> str:
    if not trained:
        return "No update was recorded."
    first, last = trained[0]["loss"], trained[-1]["smoothed"]
    said = f"Training loss from {first:.2f} to {last:.2f} over {trained[-1]['update']} updates"
    if not valid:
        return f"{said}; no validation was taken."
    best = min(valid, key=lambda record: float(record["loss"]))
    return f"{said}; lowest validation loss {best['loss']:.3f} after update {best['update']}."


def _figures(
    entry: RunEntry,
    trained: Sequence[Record],
    valid: Sequence[Record],
    result: Mapping[str, Any] | None,
) -> Table:
    last = trained[-1] if trained else None
    chosen = [record for record in valid if record["best"]]
    rows = [
        ("student", text(without_folder(entry.student))),
        ("state", text("ended" if result else "not ended")),
        ("rows", text(_rows(result)) if result and "rows" in result else None),
        ("updates", number(last["update"]) if last else None),
        ("epochs", number(last["epoch"], ".3g") if last else None),
        ("chosen weights", text(_chosen(chosen[-1])) if chosen else None),
        ("time", text(in_minutes(last["seconds"])) if last else None),
        ("tokens per second", number(last["tokens_per_second"], ".0f") if last else None),
        ("memory", TableCell(f"{last['memory_gb']:.1f} GB") if last else None),
    ]
    return facts(f"Training run {entry.run}", rows)


def _settings(folder: TrainingFolder) -> Table | None:
    if not folder.config.exists():
        return None
    settings = read_json(folder.config)["settings"]
    rows = [(_named(name), code(settings[name])) for name in SHOWN_SETTINGS if name in settings]
    return facts("Settings", rows)


def _rows(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    dropped = f", {rows['dropped']:,} dropped as too long" if rows["dropped"] else ""
    return f"{rows['train']:,} to train on, {rows['valid']:,} to validate{dropped}"


def _chosen(record: Record) -> str:
    return f"after update {record['update']}, validation loss {record['loss']:.3f}"


def _named(setting: str) -> str:
    return setting.replace("num_train_epochs", "epochs asked for").replace("_", " ")


def _validations(valid: Sequence[Record]) -> Table | None:
    if not valid:
        return None
    rows = tuple(
        (
            number(record["update"]),
            number(record["loss"], ".4f"),
            number(record["score"], ".1%")
            if record["score"] is not None
            else TableCell("–", "number"),
            text("best so far" if record["best"] else ""),
        )
        for record in valid
    )
    caption = f"The {plural(len(valid), 'validation')}, taken while training"
    return Table(caption, ("after update", "loss", "score", ""), rows)
