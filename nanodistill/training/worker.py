"""The child: loads the student, trains it, and says how that ended.

    python -m nanodistill.training.worker RUN_DIR

It reads job.json and rows.npz in its run folder and knows nothing else of the
run. It holds the folder's lock, so that there is one writer even when the
command that started it is gone; then it writes a checkpoint and ends at the
next batch, and the command run again takes over. SIGTERM and SIGINT mean the
same. What became of it is in outcome.json; a child that left none was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.errors import (
    DiskFullError,
    MemoryLimitError,
    ModelError,
    NanoDistillError,
    disk_full,
)
from nanodistill.events import Event, Listener, Notice
from nanodistill.models.blas import load_fast_blas, set_threads
from nanodistill.run_dir import read_json, write_json
from nanodistill.training.batches import BatchSampler
from nanodistill.training.metrics_log import MetricsWriter, keep_until
from nanodistill.training.resource_guard import MachineReadings, ResourceGuard, ResourceLimits
from nanodistill.training.runs import TrainingFolder
from nanodistill.training.tokenize import TokenRows, load_tokens
from nanodistill.training.training_options import TrainingOptions
from nanodistill.training.validation_score import Scorer, Scoring

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel
    from nanodistill.training.checkpoints import Checkpoints
    from nanodistill.training.loop import TrainingContext

INTERRUPTED = 130
GPU_MULTIPLE = 8
"""Widths of batches are multiples of it where each new width is compiled."""


@dataclass(frozen=True)
class TrainingJob:
    """What the command asks the child to do. `data` is a hash of the rows' tokens."""

    student: str
    options: TrainingOptions
    limits: ResourceLimits
    data: str
    window: int
    micro_batch: int
    checkpointing: bool
    parent: int
    scored_by: Scoring | None

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "options": self.options.to_json(),
            "limits": dict(vars(self.limits)),
            "scored_by": None if self.scored_by is None else asdict(self.scored_by),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainingJob:
        options = TrainingOptions.from_json(value["options"])
        scored = value["scored_by"]
        parts = {
            "options": options,
            "limits": ResourceLimits(**value["limits"]),
            "scored_by": None if scored is None else Scoring.from_json(scored),
        }
        return cls(**{**value, **parts})


def main(arguments: list[str]) -> int:
    folder = TrainingFolder(Path(arguments[0]))
    from filelock import FileLock, Timeout

    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.exit("another child trains in this folder")
    with lock:
        outcome = attempt(folder)
        try:
            write_json(folder.outcome, outcome)
        except OSError as failed:
            if disk_full(failed) is None:
                raise
            return DiskFullError.exit_code  # and no outcome: what the command takes it for
        return int(outcome["exit"])


def attempt(folder: TrainingFolder) -> dict[str, Any]:
    """Train, and tell how it ended as JSON values."""
    try:
        return TrainingWorker(folder).train()
    except NanoDistillError as known:
        return refusal(known)
    except OSError as failed:
        full = disk_full(failed)
        if full is None:
            raise
        return refusal(full)
    except (MemoryError, RuntimeError, ValueError) as failed:
        if NO_GRADIENT in str(failed):
            return refusal(
                ModelError(
                    f"MLX can't train this student: {failed}",
                    next_step="Choose a student of another architecture.",
                )
            )
        if not isinstance(failed, MemoryError) and not is_out_of_memory(str(failed)):
            raise
        how = str(failed) or type(failed).__name__
        return {"ending": "out of memory", "message": how, "exit": 1}


def refusal(error: NanoDistillError) -> dict[str, Any]:
    return {
        "ending": "memory" if isinstance(error, MemoryLimitError) else "refused",
        "error": type(error).__name__,
        "message": error.message,
        "next_step": error.next_step,
        "exit": error.exit_code,
    }


NO_GRADIENT = "[Primitive::vjp] Not implemented"
OUT_OF_MEMORY = ("insufficient memory", "outofmemory", "out of memory", "bad_alloc", "malloc]")


def is_out_of_memory(text: str) -> bool:
    """Whether an error's text, MLX's or Metal's, is about memory."""
    return any(sign in text.lower() for sign in OUT_OF_MEMORY)


def warning(text: str) -> Notice:
    return Notice(text, level="warning")


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the machine is not as it was, and what that means."""
    return [
        f"{name} was {was.get(name)} at the checkpoint and is {value} now: the last bits of the "
        "result may differ from those of an undisturbed run"
        for name, value in now.items()
        if was.get(name) != value
    ]


class TrainingWorker:
    """One attempt at the job in `folder`."""

    def __init__(self, folder: TrainingFolder) -> None:
        self.folder = folder
        self.job = TrainingJob.from_json(read_json(folder.job))
        self._stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    def train(self) -> dict[str, Any]:
        load_fast_blas()  # before anything imports mlx
        set_threads(self.job.limits.threads)
        from nanodistill.models.loading import load_model
        from nanodistill.training.checkpoints import Checkpoints
        from nanodistill.training.loop import StopRequested, run
        from nanodistill.training.mlx_setup import identity_of, machine_of, prepare_mlx

        prepare_mlx(self.job.limits)
        checkpoints = Checkpoints(self.folder.checkpoints, identity_of(self.job))
        damaged: list[Path] = []
        found = checkpoints.latest(damaged)
        at = 0 if found is None else found.state.update
        keep_until(self.folder.metrics, -1 if found is None else at)
        metrics = MetricsWriter(self.folder.metrics)
        metrics.write("started", at, pid=os.getpid())
        say = self._teller(metrics, at)
        for path in damaged:
            say(warning(f"checkpoint {path.name} is damaged; going on from the one before"))
        kwargs = self.job.options.settings.tokenizer_kwargs
        loaded = load_model(self.job.student, tokenizer_kwargs=kwargs, listener=say)
        checkpoints.machine = machine_of(self.job, loaded)
        if found is not None:
            validations = found.state.validations
            metrics.write("resumed", at, valid=validations[-1].loss if validations else None)
            for text in differences(found.machine, checkpoints.machine):
                say(warning(text))
        try:
            course = self._course(loaded, checkpoints, metrics, say)
        except StopRequested:
            return {"ending": "stopped", "exit": INTERRUPTED}
        ending, state = run(course, found)
        metrics.write("ended", state.update, how=ending)
        metrics.sync()
        return {
            "ending": ending,
            "steps": state.update,
            "epochs": round(state.update / course.deal.updates_per_epoch, 3),
            "best": None if state.best is None else dict(vars(state.best)),
            "rows": state.rows,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "resumed_from": None if found is None else at,
            "rate": state.rate,
            "exit": INTERRUPTED if ending == "stopped" else 0,
        }

    def _teller(self, metrics: MetricsWriter, at: int) -> Listener:
        """A listener that puts what is said to it into the record."""

        def tell(event: Event) -> None:
            if isinstance(event, Notice):
                metrics.write("said", at, text=event.text, level=event.level)

        return tell

    def _course(
        self, loaded: LoadedModel, checkpoints: Checkpoints, metrics: MetricsWriter, say: Listener
    ) -> TrainingContext:
        from nanodistill.training import adapters
        from nanodistill.training.loop import TrainingContext
        from nanodistill.training.mlx_setup import (
            checkpoint_layers,
            hold_wired,
            on_cpu,
            select_forward,
        )

        model, splits, options = loaded.model, load_tokens(self.folder.rows), self.job.options
        config = adapters.prepare(model, options)
        if self.job.checkpointing:
            checkpoint_layers(model)
        guard = self._guard(say)
        forward = select_forward(model, splits, self.job, say, self._looker(guard))
        rows = {name: split.after(forward.prefix) for name, split in splits.items() if len(split)}
        lengths = splits["train"].lengths
        return TrainingContext(
            model=model,
            options=options,
            forward=forward,
            deal=BatchSampler(lengths, options.rows_per_update, self.job.window, options.seed),
            train=rows["train"],
            valid=rows.get("valid"),
            micro_batch=self.job.micro_batch,
            multiple=1 if on_cpu() else GPU_MULTIPLE,
            score=self._scorer(loaded, splits),
            checkpoints=checkpoints,
            adapter=self.folder.adapter,
            adapter_config=adapters.adapter_config(config, options, loaded.source.for_mlx_lm),
            metrics=metrics,
            guard=guard,
            stop_asked=self._stop_asked,
            hold_memory=lambda: hold_wired(self.job.limits),
        )

    def _scorer(self, loaded: LoadedModel, splits: Mapping[str, TokenRows]) -> Scorer | None:
        scored = self.job.scored_by
        return None if scored is None else Scorer(loaded, splits["valid"], scored)

    def _guard(self, say: Listener) -> ResourceGuard:
        import mlx.core as mx

        return ResourceGuard(
            self.job.limits,
            MachineReadings.of_this_run(),
            mlx_memory=lambda: mx.get_active_memory() + mx.get_cache_memory(),
            release=mx.clear_cache,
            wait=self._wait,
            say=lambda text: say(warning(text)),
        )

    def _looker(self, guard: ResourceGuard) -> Callable[[], None]:
        """What work before the first update is interrupted by."""
        from nanodistill.training.loop import StopRequested

        def look() -> None:
            guard.check()
            if self._stop_asked():
                raise StopRequested

        return look

    def _stop_asked(self) -> bool:
        return self._stop.is_set() or os.getppid() != self.job.parent

    def _wait(self, seconds: float) -> bool:
        self._stop.wait(seconds)
        return self._stop_asked()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
