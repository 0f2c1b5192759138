"""train(): from a dataset version to an adapter.

    preflight      what would go wrong, in one table, before the model is loaded
    supervise      the child trains; the command follows
    result         the best adapter, and how it came about

The same call again goes on where it stopped, or finds the work done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nanodistill.errors import knowing
from nanodistill.events import Listener, Notice, ignore
from nanodistill.interrupts import on_interrupt
from nanodistill.prevent_sleep import prevent_sleep
from nanodistill.run_dir import RunFolder, checked, read_json, write_atomic, write_json
from nanodistill.training.metrics_log import ProgressFollower
from nanodistill.training.preflight import Preflight, identify, preflight
from nanodistill.training.runs import TrainingFolder, make_latest, training_folder
from nanodistill.training.supervisor import supervise
from nanodistill.training.tokenize import save_tokens

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.dataset import DatasetVersion


@dataclass(frozen=True)
class TrainingResult:
    """What training came to. `steps` are optimizer updates, `best` the chosen validation."""

    run: str
    dataset: Mapping[str, str]
    steps: int
    epochs: float
    rows: Mapping[str, int]
    best: Mapping[str, Any] | None
    resumed_from: int | None
    adapter: str | None
    metrics: str | None
    seconds: float
    preflight: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        if self.adapter is None:
            return f"{self.rows['train']} rows can be trained; nothing was."
        best = ""
        if self.best is not None:
            best = f"; the best of them after {self.best['update']}, "
            best += f"with a validation loss of {self.best['loss']:.3f}"
        epochs = f"{self.epochs:g} epoch{'s' * (self.epochs != 1)}"
        return (
            f"Trained {self.steps} updates ({epochs} of {self.rows['train']} rows) "
            f"in {self.seconds:.0f} s{best}.\nThe adapter is in {self.adapter}"
        )


def train(
    config: DistillationConfig,
    dataset: DatasetVersion,
    run: RunFolder,
    *,
    on_event: Listener = ignore,
    stop: threading.Event | None = None,
    dry_run: bool = False,
) -> TrainingResult:
    """Train the student of `config` on `dataset`, in a child process.

    Ctrl-C and SIGTERM, or `stop` where one is given, end it at the next batch after a
    checkpoint.

    Raises:
        InputError: the preflight found something that can't work.
        MemoryLimitError: the guard stopped it, or the student does not fit.
        VerificationError: training diverged, again after a roll-back.
        KeyboardInterrupt: it was stopped; calling it again goes on.
    """
    known = identify(config, dataset, on_event)
    folder = training_folder(run, known.run_id)
    if folder.result.exists() and not dry_run:
        make_latest(run, known.entry)
        on_event(Notice(f"training run {folder.id} is finished; nothing is left to do"))
        return checked(folder.result, read_json(folder.result), TrainingResult)
    found = preflight(known, config, dataset, run)
    on_event(found.table())
    if dry_run:
        return _planned(found)
    with run.locked("train"):
        _lay_out(folder, found)
        make_latest(run, known.entry)
        follower = ProgressFollower(
            on_event, found.options.settings.report_to, config.name, folder.id
        )
        known_by_then = knowing(lambda: {"run": folder.id, "dataset": known.dataset})
        with _stop_signal(stop) as asked, follower, prevent_sleep(), known_by_then:
            outcome = supervise(folder, found.job(), follow=follower, on_event=on_event, stop=asked)
        if outcome["ending"] == "stopped":
            raise KeyboardInterrupt
        result = _finished(found, folder, outcome)
        write_json(folder.result, result.to_json())
        return result


def _planned(found: Preflight) -> TrainingResult:
    return TrainingResult(
        run=found.known.run_id,
        dataset=found.known.dataset,
        steps=found.updates,
        epochs=found.options.settings.num_train_epochs,
        rows=found.rows,
        best=None,
        resumed_from=None,
        adapter=None,
        metrics=None,
        seconds=0.0,
        preflight=found.to_json(),
    )


def _finished(
    found: Preflight, folder: TrainingFolder, outcome: Mapping[str, Any]
) -> TrainingResult:
    return TrainingResult(
        run=found.known.run_id,
        dataset=found.known.dataset,
        steps=outcome["steps"],
        epochs=outcome["epochs"],
        rows=found.rows,
        best=outcome["best"],
        resumed_from=outcome["resumed_from"],
        adapter=str(folder.adapter),
        metrics=str(folder.metrics),
        seconds=outcome["seconds"],
        preflight=found.to_json(),
    )


def _lay_out(folder: TrainingFolder, found: Preflight) -> None:
    """Write what the child reads, and the same run for mlx_lm's command line."""
    folder.root.mkdir(parents=True, exist_ok=True)
    if not folder.rows.exists():
        save_tokens(folder.rows, found.token_rows)
    write_atomic(folder.yaml, found.yaml().encode())
    write_json(folder.config, found.config())


@contextmanager
def _stop_signal(stop: threading.Event | None) -> Iterator[threading.Event]:
    """The event to stop by: the caller's, or one that Ctrl-C and SIGTERM set in here.

    A second Ctrl-C leaves at once; the last checkpoint stands.
    """
    asked = threading.Event() if stop is None else stop
    if stop is not None or threading.current_thread() is not threading.main_thread():
        with on_interrupt(asked.set):
            yield asked
        return

    def ask(number: int, _: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    former: dict[int, Any] = {
        number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
