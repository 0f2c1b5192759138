"""The training process: loads the student, trains it, and records how that ended.

    python -m nanodistill.training.worker RUN_DIR

It reads job.json and rows.npz in its run folder and nothing else of the run. It holds
the folder's lock, so there is one writer even when the command that started it is
gone. In that case it writes a checkpoint and ends after the batch at work, and the
next command resumes. SIGTERM and SIGINT do the same. The end is recorded in
outcome.json; a process that left none was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nanodistill.errors import (
    DiskFullError,
    MemoryLimitError,
    ModelError,
    NanoDistillError,
    disk_full,
)
from nanodistill.events import Event, Listener, Notice
from nanodistill.metrics.output_parser import parse_output
from nanodistill.metrics.row_metrics import score_rows
from nanodistill.models.blas import load_fast_blas, set_threads
from nanodistill.run_dir import read_json, write_json
from nanodistill.training.batches import BatchSampler
from nanodistill.training.metrics_log import MetricsWriter, truncate_after
from nanodistill.training.resource_guard import MachineReadings, ResourceGuard
from nanodistill.training.runs import TrainingFolder
from nanodistill.training.tokenize import TokenRows, load_tokens
from nanodistill.training.training_options import Scoring, TrainingJob

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel
    from nanodistill.training.checkpoints import Checkpoints
    from nanodistill.training.loop import TrainingContext

INTERRUPTED = 130
# On a GPU a new batch width compiles the step again. Widths in multiples of 8 leave an eighth of
# the kernels to compile and pad 3.5 tokens a row on average.
GPU_WIDTH_MULTIPLE = 8
NO_GRADIENT = "[Primitive::vjp] Not implemented"
OUT_OF_MEMORY = ("insufficient memory", "outofmemory", "out of memory", "bad_alloc", "malloc]")


def main(arguments: list[str]) -> int:
    folder = TrainingFolder(Path(arguments[0]))
    from filelock import FileLock, Timeout

    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.exit("another process trains in this folder")
    with lock:
        outcome = train_and_report(folder)
        try:
            write_json(folder.outcome, outcome)
        except OSError as error:
            if disk_full(error) is None:
                raise
            # Without an outcome the command takes this exit code for a full disk.
            return DiskFullError.exit_code
        return int(outcome["exit"])


def train_and_report(folder: TrainingFolder) -> dict[str, Any]:
    """Train, and return how it ended as the content of outcome.json."""
    try:
        return TrainingWorker(folder).train()
    except NanoDistillError as error:
        return _error_outcome(error)
    except OSError as error:
        full = disk_full(error)
        if full is None:
            raise
        return _error_outcome(full)
    except (MemoryError, RuntimeError, ValueError) as error:
        if NO_GRADIENT in str(error):
            next_step = "Choose a student of another architecture."
            return _error_outcome(
                ModelError(f"MLX can't train this student: {error}", next_step=next_step)
            )
        if not isinstance(error, MemoryError) and not is_out_of_memory(str(error)):
            raise
        message = str(error) or type(error).__name__
        return {"ending": "out of memory", "message": message, "exit": 1}


def _error_outcome(error: NanoDistillError) -> dict[str, Any]:
    return {
        "ending": "memory" if isinstance(error, MemoryLimitError) else "refused",
        "error": type(error).__name__,
        "message": error.message,
        "next_step": error.next_step,
        "exit": error.exit_code,
    }


def is_out_of_memory(text: str) -> bool:
    """Whether the text of an error, MLX's or Metal's, is about memory."""
    return any(sign in text.lower() for sign in OUT_OF_MEMORY)


class TrainingWorker:
    """One attempt at the job in `folder`."""

    def __init__(self, folder: TrainingFolder) -> None:
        self.folder = folder
        self.job = TrainingJob.from_json(read_json(folder.job))
        self._stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    def train(self) -> dict[str, Any]:
        load_fast_blas()  # must come before anything imports mlx
        set_threads(self.job.limits.threads)
        from nanodistill.models.loading import load_model
        from nanodistill.training.checkpoints import Checkpoints
        from nanodistill.training.loop import StopRequestedError, run
        from nanodistill.training.mlx_setup import (
            checkpoint_identity,
            machine_details,
            prepare_mlx,
        )

        prepare_mlx(self.job.limits)
        checkpoints = Checkpoints(self.folder.checkpoints, checkpoint_identity(self.job))
        damaged: list[Path] = []
        checkpoint = checkpoints.latest(damaged)
        update = 0 if checkpoint is None else checkpoint.state.update
        truncate_after(self.folder.metrics, -1 if checkpoint is None else update)
        metrics = MetricsWriter(self.folder.metrics)
        metrics.write("started", update, pid=os.getpid())

        def on_event(event: Event) -> None:
            if isinstance(event, Notice):
                metrics.write("said", update, text=event.text, level=event.level)

        def warn(text: str) -> None:
            on_event(Notice(text, level="warning"))

        for path in damaged:
            warn(f"checkpoint {path.name} is damaged; resuming from the one before")
        kwargs = self.job.options.settings.tokenizer_kwargs
        loaded = load_model(self.job.student, tokenizer_kwargs=kwargs, on_event=on_event)
        checkpoints.machine = machine_details(self.job, loaded)
        if checkpoint is not None:
            validations = checkpoint.state.validations
            metrics.write("resumed", update, valid=validations[-1].loss if validations else None)
            before = checkpoint.machine
            for name, value in checkpoints.machine.items():
                if before.get(name) != value:
                    warn(
                        f"{name} changed from {before.get(name)} to {value} since the "
                        "checkpoint: the last bits of the result may differ from those of an "
                        "uninterrupted run"
                    )
        try:
            context = self._context(loaded, checkpoints, metrics, on_event)
        except StopRequestedError:
            return {"ending": "stopped", "exit": INTERRUPTED}
        ending, state = run(context, checkpoint)
        metrics.write("ended", state.update, how=ending)
        metrics.sync()
        return {
            "ending": ending,
            "steps": state.update,
            "epochs": round(state.update / context.sampler.updates_per_epoch, 3),
            "best": None if state.best is None else asdict(state.best),
            "rows": state.rows,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "resumed_from": None if checkpoint is None else update,
            "rate": state.rate,
            "exit": INTERRUPTED if ending == "stopped" else 0,
        }

    def _context(
        self,
        loaded: LoadedModel,
        checkpoints: Checkpoints,
        metrics: MetricsWriter,
        on_event: Listener,
    ) -> TrainingContext:
        import mlx.core as mx

        from nanodistill.training.forward import select_forward
        from nanodistill.training.loop import StopRequestedError, TrainingContext
        from nanodistill.training.mlx_setup import (
            adapter_config,
            checkpoint_layers,
            limit_wired_memory,
            on_cpu,
            prepare_student,
        )

        model, splits, options = loaded.model, load_tokens(self.folder.rows), self.job.options
        config = prepare_student(model, options)
        if self.job.checkpointing:
            checkpoint_layers(model)
        guard = ResourceGuard(
            self.job.limits,
            MachineReadings.of_this_run(),
            mlx_memory=lambda: mx.get_active_memory() + mx.get_cache_memory(),
            release=mx.clear_cache,
            wait=self._wait,
            warn=lambda text: on_event(Notice(text, level="warning")),
        )

        def check_interrupts() -> None:
            guard.check()
            if self._stop_requested():
                raise StopRequestedError

        forward = select_forward(model, splits, self.job, on_event, check_interrupts)
        rows = {
            name: split.without_prefix(forward.prefix)
            for name, split in splits.items()
            if len(split)
        }
        lengths, scoring = splits["train"].lengths, self.job.scored_by
        return TrainingContext(
            model=model,
            options=options,
            forward=forward,
            sampler=BatchSampler(lengths, options.rows_per_update, self.job.window, options.seed),
            train=rows["train"],
            valid=rows.get("valid"),
            micro_batch=self.job.micro_batch,
            multiple=1 if on_cpu() else GPU_WIDTH_MULTIPLE,
            score=None if scoring is None else ValidationScorer(loaded, splits["valid"], scoring),
            checkpoints=checkpoints,
            adapter=self.folder.adapter,
            adapter_config=adapter_config(config, options, loaded.source.for_mlx_lm),
            metrics=metrics,
            guard=guard,
            stop_requested=self._stop_requested,
            limit_memory=lambda: limit_wired_memory(self.job.limits),
        )

    def _stop_requested(self) -> bool:
        return self._stop.is_set() or os.getppid() != self.job.parent

    def _wait(self, seconds: float) -> bool:
        self._stop.wait(seconds)
        return self._stop_requested()


class ValidationScorer:
    """The mean task score of the validation rows, answered greedily by the model as it is now.

    Answers are parsed and scored as the evaluation does it.
    """

    def __init__(self, loaded: LoadedModel, rows: TokenRows, scoring: Scoring) -> None:
        self._loaded = loaded
        self._scoring = scoring
        self._metric, self._format = scoring.resolve_metric(), scoring.resolve_format()
        self._prompts = [rows[row][: rows.prompts[row]].tolist() for row in range(len(rows))]

    def __call__(self) -> float:
        from nanodistill.models.generation import generate_batch
        from nanodistill.models.sampling import Sampling

        sampling = Sampling(max_tokens=self._scoring.max_new_tokens)
        answers = generate_batch(
            self._loaded, self._prompts, sampling, max_batch=self._scoring.batch_size
        )
        outputs = [
            parse_output(answer.text, answer.finish_reason, self._format).output
            for answer in answers
        ]
        return fmean(score_rows(self._metric, list(zip(outputs, self._scoring.golds, strict=True))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
