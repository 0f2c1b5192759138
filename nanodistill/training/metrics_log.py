"""metrics.jsonl, the record of a training run, and what follows it.

One JSON object per line, each with `kind` and `update`:

    started      pid: a training process begins
    train        loss, smoothed, learning_rate, gradient_norm, tokens_per_second, …
    tick         the same between two of those, for whoever watches
    valid        loss, score, best
    checkpoint   path
    said         text, level: a message for whoever watches
    resumed      update: of the checkpoint; valid: the latest validation's loss, or null
    ended        how

Only the training process writes it; anyone may read along. After a resume the records
of updates that the crash lost are removed, so each update is recorded once.
`ProgressFollower` turns records into events, and into trackio's metrics if asked.
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
    """Appends records; each has reached the operating system when `write` returns."""

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
    """All complete records; a torn last line is ignored.

    Raises:
        CorruptFileError: a line is not a record.
    """
    if not path.exists():
        return []
    records: list[Record] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records += _parse(line + b"\n")
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(
                f"{path}: line {number} is not a record of training: {error}.",
                next_step="Delete that line; the others stay valid.",
            ) from error
    return records


def _parse(data: bytes) -> Iterator[Record]:
    for line in data.split(b"\n")[:-1]:
        if line:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
                raise ValueError("it has no kind")
            if not isinstance(record.get("update"), int):
                raise ValueError("it has no update")
            yield record


@dataclass(frozen=True)
class ProgressSnapshot:
    """A run's progress as seen from outside. `total` is None before its first update."""

    update: int
    total: int | None
    loss: float | None
    valid: float | None
    seconds_left: float | None


def progress_snapshot(path: Path) -> ProgressSnapshot:
    """The progress recorded in `path`; update 0 if there is no record yet."""
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


def truncate_after(path: Path, update: int) -> None:
    """Remove the records of later updates, and a torn last line."""
    if path.exists():
        kept = [record for record in read_records(path) if record["update"] <= update]
        write_atomic(path, b"".join(json.dumps(r).encode() + b"\n" for r in kept))


class MetricsReader:
    """Returns the records of one training process, each once, as they are added.

    A process that resumes replaces the file before it begins, so records count only from its
    own `started`.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        self._pid = pid
        self._offset = 0
        self._inode = -1
        self._started = False

    def new_records(self) -> list[Record]:
        records = list(_parse(self._read_lines()))
        for place, record in enumerate(records):
            if record["kind"] == "started" and record["pid"] == self._pid:
                self._started = True
                return records[place + 1 :]
        return records if self._started else []

    def _read_lines(self) -> bytes:
        """The complete lines added since the last call."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._offset, self._started = inode, 0, False
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return b""
        lines = data[: data.rfind(b"\n") + 1]
        self._offset += len(lines)
        return lines


class ProgressFollower:
    """Called with each record; turns it into events. Use it in a `with` block.

    Args:
        report_to: "trackio" sends figures there too.
        project, run: their names in trackio.
    """

    def __init__(self, on_event: Listener, report_to: str | None, project: str, run: str) -> None:
        self._on_event = on_event
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
                self._on_event(self._progress(record))
            case "valid":
                self._valid = record["loss"]
                self._on_event(Notice(_validation_message(record)))
                if self._latest is not None:
                    self._on_event(self._progress(self._latest))
            case "said":
                self._on_event(Notice(record["text"], level=record["level"]))
            case "resumed":
                self._valid = record["valid"]
                self._on_event(Notice(f"resuming after update {record['update']}"))
        if self._tracker is not None and record["kind"] in ("train", "valid"):
            figures = {
                f"{record['kind']}/{name}": value
                for name, value in record.items()
                if isinstance(value, int | float) and name not in ("update", "total")
            }
            self._tracker.log(figures, step=record["update"])

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


def _validation_message(record: Record) -> str:
    score = "" if record["score"] is None else f", score {record['score']:.1%}"
    best = ", best so far" if record["best"] else ""
    return f"after update {record['update']}: validation loss {record['loss']:.4f}{score}{best}"


def load_trackio() -> Any:
    """Import trackio.

    Raises:
        InputError: it is not installed.
    """
    try:
        import trackio
    except ImportError as missing:
        raise InputError(
            'report_to = "trackio" needs the package trackio, which is not installed.',
            next_step="Install it (pip install trackio), or remove report_to.",
        ) from missing
    return trackio
