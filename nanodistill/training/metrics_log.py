"""metrics.jsonl: the record of a training run, a JSON object to a line, and what follows it.

Every record has `kind` and `update`:

    started      pid: a child begins
    train        loss, smoothed, learning_rate, gradient_norm, tokens_per_second, …
    tick         the same, between two of those, for who watches
    valid        loss, score, best
    checkpoint   path
    said         text, level: a sentence for the person who watches
    resumed      where the run went on from; valid: the latest validation's loss, or null
    ended        how

Only the child writes it; the command follows it, and so can anyone. After a
resume, records of updates that were lost with the crash are taken out, so that
each update is told once.

Turns the child's records into events for whoever watches, and into trackio's if asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nanodistill.errors import CorruptFileError, InputError
from nanodistill.events import Listener, Notice, Progress, Value
from nanodistill.run_dir import write_atomic

Record = dict[str, Any]


class MetricsWriter:
    """Appends records; each is with the operating system when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, kind: str, update: int, **figures: Any) -> None:
        line = json.dumps({"kind": kind, "update": update, **figures}, allow_nan=False)
        self._file.write(line.encode() + b"\n")

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_records(path: Path) -> list[Record]:
    """All whole records; a torn last line is none.

    Raises:
        CorruptFileError: a line is no record.
    """
    if not path.exists():
        return []
    records: list[Record] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records += parse(line + b"\n")
        except (ValueError, RecursionError) as torn:
            raise CorruptFileError(
                f"{path} has a line that is not JSON, or no record: line {number}: {torn}.",
                next_step="Take that line out; the others stay as they are.",
            ) from torn
    return records


@dataclass(frozen=True)
class ProgressSnapshot:
    """How far a run is, for who looks from outside. `total` is None before its first update."""

    update: int
    total: int | None
    loss: float | None
    valid: float | None
    seconds_left: float | None


def progress_snapshot(path: Path) -> ProgressSnapshot:
    """What the record at `path` tells last; of a run that has none, that it is at update 0."""
    records = read_records(path)
    progress = [record for record in records if record["kind"] in ("train", "tick")]
    validations = [record.get("loss") for record in records if record["kind"] == "valid"]
    last = progress[-1] if progress else {}
    return ProgressSnapshot(
        update=max((record["update"] for record in records), default=0),
        total=last.get("total"),
        loss=last.get("loss"),
        valid=validations[-1] if validations else None,
        seconds_left=last.get("seconds_left"),
    )


def parse(data: bytes) -> Iterator[Record]:
    for line in data.split(b"\n")[:-1]:
        if line:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
                raise ValueError("it has no kind")
            if not isinstance(record.get("update"), int):
                raise ValueError("it has no update")
            yield record


def keep_until(path: Path, update: int) -> None:
    """Take out the records of updates after `update`, and a torn end."""
    if path.exists():
        kept = [record for record in read_records(path) if record["update"] <= update]
        write_atomic(path, b"".join(json.dumps(r).encode() + b"\n" for r in kept))


class MetricsReader:
    """Hands out the records of one child, each once, as they are added.

    A child that goes on replaces the file before it begins, so what is read counts only from
    its own `started`.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        self._pid = pid
        self._at = 0
        self._inode = -1
        self._begun = False

    def new(self) -> list[Record]:
        records = list(parse(self._read()))
        for place, record in enumerate(records):
            if record["kind"] == "started" and record["pid"] == self._pid:
                self._begun = True
                return records[place + 1 :]
        return records if self._begun else []

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._at, self._begun = inode, 0, False
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return b""
        whole = data.rfind(b"\n") + 1
        self._at += whole
        return data[:whole]


class ProgressFollower:
    """Called with each record. Use it in a `with` block."""

    def __init__(self, on_event: Listener, report_to: str | None, project: str, run: str) -> None:
        self._listen = on_event
        self._report_to = report_to
        self._project, self._run = project, run
        self._tracker: Any = None
        self._valid: float | None = None
        self._latest: Record | None = None

    def __enter__(self) -> Self:
        if self._report_to == "trackio":
            self._tracker = load_trackio()
            self._tracker.init(project=self._project, name=self._run, resume="allow")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tracker is not None:
            self._tracker.finish()

    def __call__(self, record: Record) -> None:
        match record["kind"]:
            case "train" | "tick":
                self._latest = record
                self._listen(self._progress(record))
            case "valid":
                self._valid = record["loss"]
                self._listen(Notice(validation_message(record)))
                if self._latest is not None:
                    self._listen(self._progress(self._latest))
            case "said":
                self._listen(Notice(record["text"], level=record["level"]))
            case "resumed":
                self._valid = record["valid"]
                self._listen(Notice(f"going on after update {record['update']}"))
        self._track(record)

    def _progress(self, record: Record) -> Progress:
        figures: dict[str, Value] = {
            "loss": record["loss"],
            "smoothed": record["smoothed"],
            "valid": self._valid,
            "learning rate": record["learning_rate"],
            "tokens/s": record["tokens_per_second"],
            "memory GiB": record["memory_gb"],
        }
        return Progress(
            "train",
            record["update"],
            record["total"],
            unit="updates",
            seconds_left=record["seconds_left"],
            figures={name: value for name, value in figures.items() if value is not None},
        )

    def _track(self, record: Record) -> None:
        if self._tracker is None or record["kind"] not in ("train", "valid"):
            return
        kind = record["kind"]
        figures = {
            f"{kind}/{name}": value
            for name, value in record.items()
            if isinstance(value, int | float) and name not in ("update", "total")
        }
        self._tracker.log(figures, step=record["update"])


def validation_message(record: Record) -> str:
    score = "" if record["score"] is None else f", score {record['score']:.1%}"
    best = ", the best so far" if record["best"] else ""
    return f"after update {record['update']}: validation loss {record['loss']:.4f}{score}{best}"


def load_trackio() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import trackio
    except ImportError as missing:
        raise InputError(
            'report_to = "trackio" needs the package trackio, which is not installed.',
            next_step="Install it (pip install trackio), or take report_to out.",
        ) from missing
    return trackio
