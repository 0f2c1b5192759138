"""Turns the child's records into events for whoever watches, and into trackio's if asked."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from nanodistill.errors import InputError
from nanodistill.events import Listener, Notice, Progress, Value
from nanodistill.training.metrics import Record


class Follower:
    """Called with each record. Use it in a `with` block."""

    def __init__(self, listen: Listener, report_to: str | None, project: str, run: str) -> None:
        self._listen = listen
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
                self._listen(Notice(said_of_validation(record)))
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


def said_of_validation(record: Record) -> str:
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
