"""The training runs in the report: curves of loss and learning rate, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.console import duration
from nanodistill.errors import CorruptFileError
from nanodistill.formatting import plural
from nanodistill.reporting.report_tables import (
    DASH,
    Table,
    TableCell,
    code,
    fact_table,
    number,
    text,
    without_folder,
)
from nanodistill.run_dir import RunFolder, read_json
from nanodistill.training.metrics_log import Record, read_records
from nanodistill.training.runs import RunEntry, TrainingFolder, read_index, training_folder

# Points of a curve, about one per pixel of a wide screen: more only make the file larger. Every
# n-th step is drawn, and every validation, for they are few.
CURVE_POINTS = 1000
SHOWN_SETTINGS = (
    "learning_rate", "lr_scheduler", "warmup_steps", "batch_size", "gradient_accumulation_steps",
    "num_train_epochs", "optimizer", "fine_tune_type", "lora_rank", "lora_layers", "lora_alpha",
    "max_seq_length", "train_on",
)  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """Values by step, None where a step has no value. `chosen` is the step of the adapter."""

    steps: tuple[int, ...]
    loss: tuple[float | None, ...]
    smoothed: tuple[float | None, ...]
    valid: tuple[float | None, ...]
    rate: tuple[float | None, ...]
    chosen: int | None


@dataclass(frozen=True)
class Training:
    """One training run. `caption` describes its curves, also for readers who can't see them."""

    run: str
    student: str
    state: str
    curves: Curves | None
    caption: str
    figures: Table
    settings: Table | None
    validations: Table | None


def read_trainings(run: RunFolder, first: str | None) -> list[Training]:
    """The training runs: the one called `first`, then the latest first.

    Raises:
        CorruptFileError: a run's files can't be read.
    """
    latest_first = read_index(run)[::-1]
    entries = sorted(latest_first, key=lambda entry: entry.run != first)
    return [_read_training(entry, training_folder(run, entry.run)) for entry in entries]


def _read_training(entry: RunEntry, folder: TrainingFolder) -> Training:
    try:
        records = read_records(folder.metrics)
        trained = [record for record in records if record["kind"] == "train"]
        valid = [record for record in records if record["kind"] == "valid"]
        result = read_json(folder.result) if folder.result.exists() else None
        return Training(
            run=entry.run,
            student=without_folder(entry.student),
            state="ended" if result else "unfinished",
            curves=_curves(trained, valid) if trained else None,
            caption=_caption(trained, valid),
            figures=_figures(entry, trained, valid, result),
            settings=_settings(folder),
            validations=_validations(valid) if valid else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(
            f"{folder.root} is not what a training run writes ({error!r} in metrics.jsonl, "
            "result.json or config.json).",
            next_step="Move it away, or train again: nanodistill train RUN.toml",
        ) from error


def _curves(trained: Sequence[Record], valid: Sequence[Record]) -> Curves:
    stride = -(-len(trained) // CURVE_POINTS)
    drawn = {record["update"]: record for record in (*trained[::stride], trained[-1])}
    validated = {record["update"]: record for record in valid}
    steps = sorted({*drawn, *validated})

    def column(records: Mapping[int, Record], name: str) -> tuple[float | None, ...]:
        # Five digits are more than a pixel shows, and half the size in the file.
        values = (records[step][name] if step in records else None for step in steps)
        return tuple(None if value is None else float(f"{value:.5g}") for value in values)

    return Curves(
        steps=tuple(steps),
        loss=column(drawn, "loss"),
        smoothed=column(drawn, "smoothed"),
        valid=column(validated, "loss"),
        rate=column(drawn, "learning_rate"),
        chosen=max((record["update"] for record in valid if record["best"]), default=None),
    )


def _caption(trained: Sequence[Record], valid: Sequence[Record]) -> str:
    if not trained:
        return "No step was recorded."
    first, last = trained[0]["loss"], trained[-1]["smoothed"]
    caption = f"Training loss from {first:.2f} to {last:.2f} over {trained[-1]['update']} steps"
    if not valid:
        return f"{caption}; no validation yet."
    best = min(valid, key=lambda record: float(record["loss"]))
    return f"{caption}; lowest validation loss {best['loss']:.3f} at step {best['update']}."


def _figures(
    entry: RunEntry,
    trained: Sequence[Record],
    valid: Sequence[Record],
    result: Mapping[str, Any] | None,
) -> Table:
    facts: list[tuple[str, TableCell | None]] = [
        ("student", text(without_folder(entry.student))),
        ("state", text("ended" if result else "unfinished")),
    ]
    if result and "rows" in result:
        rows = result["rows"]
        dropped = f", {rows['dropped']:,} dropped as too long" if rows["dropped"] else ""
        counts = f"{rows['train']:,} for training, {rows['valid']:,} for validation{dropped}"
        facts.append(("rows", text(counts)))
    if trained:
        last = trained[-1]
        facts += [("steps", number(last["update"])), ("epochs", number(last["epoch"], ".3g"))]
    chosen = [record for record in valid if record["best"]]
    if chosen:
        best = f"step {chosen[-1]['update']}, validation loss {chosen[-1]['loss']:.3f}"
        facts.append(("adapter", text(best)))
    if trained:
        facts += [
            ("time", text(duration(last["seconds"]))),
            ("tokens per second", number(last["tokens_per_second"], ".0f")),
            ("memory", TableCell(f"{last['memory_gb']:.1f} GB")),
        ]
    return fact_table(f"Training run {entry.run}", facts)


def _settings(folder: TrainingFolder) -> Table | None:
    if not folder.config.exists():
        return None
    settings = read_json(folder.config)["settings"]
    return fact_table(
        "Settings",
        [
            (name.replace("num_train_", "").replace("_", " "), code(settings[name]))
            for name in SHOWN_SETTINGS
            if name in settings
        ],
    )


def _validations(valid: Sequence[Record]) -> Table:
    rows = tuple(
        (
            number(record["update"]),
            number(record["loss"], ".4f"),
            DASH if record["score"] is None else number(record["score"], ".1%"),
            text("best so far" if record["best"] else ""),
        )
        for record in valid
    )
    caption = f"{plural(len(valid), 'validation')} during training"
    return Table(caption, ("step", "loss", "score", ""), rows)
