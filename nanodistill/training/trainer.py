"""train(): from a dataset version to an adapter.

    preflight    what can go wrong, before the model is loaded
    supervise    the training process works, this one follows it
    result       the best adapter, and how it came about

The same call again resumes an unfinished run, and returns a finished one.

The training process has a session of its own, so Ctrl-C and a closed terminal reach
this one alone, which asks it to write a checkpoint and end. If this one is killed, the
training process notices and does the same.

A training process that runs out of memory is restarted from its last checkpoint with
half the batch and twice the accumulation, which trains the same updates (with dropout,
under different draws). At one row per batch gradient checkpointing is turned on; after
that the student does not fit. The change is reported, and kept in adjusted.json for
the next command. One that dies of anything else (a driver, a signal) restarts as it
was, if it had got past the point where it last started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import nanodistill
from nanodistill import errors
from nanodistill.errors import (
    DiskFullError,
    MemoryLimitError,
    NanoDistillError,
    RunIncompleteError,
    RunLockedError,
    knowing,
)
from nanodistill.events import Listener, Notice, ignore
from nanodistill.interrupts import on_interrupt
from nanodistill.prevent_sleep import prevent_sleep
from nanodistill.run_dir import RunFolder, checked, read_json, write_atomic, write_json
from nanodistill.training.metrics_log import MetricsReader, ProgressFollower, Record
from nanodistill.training.preflight import Preflight, identify, preflight
from nanodistill.training.runs import TrainingFolder, make_latest, training_folder
from nanodistill.training.tokenize import save_tokens
from nanodistill.training.training_options import TrainingJob
from nanodistill.training.worker import is_out_of_memory

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.dataset import DatasetVersion

POLL_SECONDS = 0.2  # how often metrics.jsonl is read: what a person sees as at once
# How long the training process of a killed command may take to write its checkpoint and end: one
# batch of a large student on a CPU, and its file. Less gives up on work that is about to be safe.
ORPHAN_SECONDS = 120.0
LOG_TAIL = 4000  # characters of the log that are searched for the cause of a death
# Where Linux counts the processes it killed for memory. macOS tells nobody, so there every SIGKILL
# counts as one.
VMSTAT = Path("/proc/vmstat")
KILLED = "the system killed its process"

Outcome = Mapping[str, Any]
STOPPED: Outcome = {"ending": "stopped"}


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        run: the run's id, which names its folder.
        dataset: `path`, `version` and `fingerprint`.
        steps: optimizer updates made.
        rows: `train`, `valid` and `dropped`.
        best: the chosen validation: `update`, `loss` and `score`.
        resumed_from: the update of the checkpoint it resumed from, or None.
        adapter: the adapter's folder; None after a dry run, like `metrics`.
        preflight: what was found before training, as `--json` prints it.
    """

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
            return f"{self.rows['train']} rows are ready to train; nothing was trained."
        best = ""
        if self.best is not None:
            best = f"; best after {self.best['update']}, validation loss {self.best['loss']:.3f}"
        epochs = f"{self.epochs:g} epoch{'s' * (self.epochs != 1)}"
        return (
            f"Trained {self.steps} updates ({epochs} of {self.rows['train']} rows) "
            f"in {self.seconds:.0f} s{best}.\nAdapter: {self.adapter}"
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
    """Train the student of `config` on `dataset`, in a separate process.

    Args:
        run: the folder that the training run is written to.
        stop: set it to stop after the batch at work, with a checkpoint. Without it Ctrl-C and
            SIGTERM do that.
        dry_run: only run the preflight checks.

    Raises:
        InputError: preflight found something that can't work.
        MemoryLimitError: the memory guard stopped it, or the student does not fit.
        VerificationError: training diverged again after a roll-back.
        KeyboardInterrupt: it was stopped; call it again to resume.

    Example:
        >>> result = train(config, version, RunFolder(config.run_folder))
        >>> print(result.summary())
    """
    identity = identify(config, dataset, on_event)
    folder = training_folder(run, identity.run_id)
    if folder.result.exists() and not dry_run:
        make_latest(run, identity.entry)
        on_event(Notice(f"training run {folder.id} is already finished"))
        return checked(folder.result, read_json(folder.result), TrainingResult)
    plan = preflight(identity, config, dataset, run)
    on_event(plan.table())
    if dry_run:
        epochs = plan.options.settings.num_train_epochs
        return _result(plan, {"steps": plan.updates, "epochs": epochs, "seconds": 0.0}, None)
    with run.locked("train"):
        folder.root.mkdir(parents=True, exist_ok=True)
        if not folder.rows.exists():
            save_tokens(folder.rows, plan.token_rows)
        write_atomic(folder.yaml, plan.yaml().encode())
        write_json(folder.config, plan.config())
        make_latest(run, identity.entry)
        follower = ProgressFollower(
            on_event, plan.options.settings.report_to, config.name, folder.id
        )
        facts = knowing(lambda: {"run": folder.id, "dataset": identity.dataset})
        with _stop_on_signals(stop) as stop_event, follower, prevent_sleep(), facts:
            outcome = supervise(
                folder, plan.job(), follow=follower, on_event=on_event, stop=stop_event
            )
        if outcome["ending"] == "stopped":
            raise KeyboardInterrupt
        result = _result(plan, outcome, folder)
        write_json(folder.result, result.to_json())
        return result


def _result(plan: Preflight, outcome: Outcome, folder: TrainingFolder | None) -> TrainingResult:
    return TrainingResult(
        run=plan.identity.run_id,
        dataset=plan.identity.dataset,
        steps=outcome["steps"],
        epochs=outcome["epochs"],
        rows=plan.rows,
        best=outcome.get("best"),
        resumed_from=outcome.get("resumed_from"),
        adapter=None if folder is None else str(folder.adapter),
        metrics=None if folder is None else str(folder.metrics),
        seconds=outcome["seconds"],
        preflight=plan.to_json(),
    )


@contextmanager
def _stop_on_signals(stop: threading.Event | None) -> Iterator[threading.Event]:
    """The event to stop on: the caller's, or one set by Ctrl-C and SIGTERM.

    A second Ctrl-C leaves at once; the last checkpoint remains.
    """
    event = threading.Event() if stop is None else stop
    if stop is not None or threading.current_thread() is not threading.main_thread():
        with on_interrupt(event.set):
            yield event
        return

    def handle(number: int, _: object) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    earlier: dict[int, Any] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield event
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class MemoryPlan:
    """How updates are cut into batches to fit into memory; the updates stay the same."""

    micro_batch: int
    checkpointing: bool

    def smaller(self) -> MemoryPlan | None:
        """What to try after running out of memory; None if nothing is left."""
        if self.micro_batch > 1:
            return replace(self, micro_batch=(self.micro_batch + 1) // 2)
        return None if self.checkpointing else replace(self, checkpointing=True)

    def describe(self, rows_per_update: int) -> str:
        accumulation = -(-rows_per_update // self.micro_batch)
        text = f"batch size {self.micro_batch}, accumulation {accumulation}"
        return f"{text}, gradient checkpointing" if self.checkpointing else text


class TrainingEndedError(RunIncompleteError):
    """Another process ended the training process, which wrote a checkpoint."""


class TrainingProcessError(NanoDistillError):
    """The training process died, and not of memory; `cause` in a few words."""

    def __init__(self, cause: str, message: str, log: Path) -> None:
        super().__init__(
            f"The training process died: {message}",
            next_step=f"Its output is in {log}. Rerun the command to resume from the last "
            "checkpoint.",
        )
        self.cause = cause


def supervise(
    folder: TrainingFolder,
    job: TrainingJob,
    *,
    follow: Callable[[Record], None],
    on_event: Listener,
    stop: threading.Event,
) -> Outcome:
    """Run training processes until one finishes or `stop` is set.

    Args:
        follow: called with each record of metrics.jsonl.

    Returns:
        The content of outcome.json.

    Raises:
        MemoryLimitError: the guard stopped it, or it does not fit however it is cut.
        TrainingProcessError: it died, and would again.
        NanoDistillError: what the training process raised.
    """
    plan = MemoryPlan(job.micro_batch, job.checkpointing)
    if folder.adjusted.exists():
        plan = checked(folder.adjusted, read_json(folder.adjusted), MemoryPlan)
    while True:
        job = replace(job, micro_batch=plan.micro_batch, checkpointing=plan.checkpointing)
        started_from = _latest_checkpoint(folder)
        try:
            outcome = _run_process(folder, job, follow, on_event, stop)
        except TrainingProcessError as died:
            if _latest_checkpoint(folder) == started_from or stop.is_set():
                raise
            text = f"the training process died ({died.cause}); resuming from the last checkpoint"
            on_event(Notice(text, level="warning"))
            continue
        if outcome["ending"] in ("refused", "memory"):
            raise error_from_outcome(outcome)
        if outcome["ending"] != "out of memory":
            return outcome
        if stop.is_set():
            return STOPPED
        smaller = plan.smaller()
        if smaller is None:
            raise MemoryLimitError(
                "Training ran out of memory even with one row per batch and gradient "
                f"checkpointing ({outcome['message']}).",
                next_step="Choose a smaller or quantized student, a smaller max_seq_length, "
                "fewer lora_layers, or a machine with more memory.",
            )
        plan = smaller
        write_json(folder.adjusted, asdict(plan))
        text = f"training ran out of memory ({outcome['message']}); resuming from the last "
        text += f"checkpoint with {plan.describe(job.options.rows_per_update)}"
        on_event(Notice(text, level="warning"))


def _latest_checkpoint(folder: TrainingFolder) -> str:
    """Its name. As long as it changes, training makes progress."""
    if not folder.checkpoints.is_dir():
        return ""
    return max((p.name for p in folder.checkpoints.iterdir() if p.name.isdigit()), default="")


def error_from_outcome(outcome: Outcome) -> NanoDistillError:
    """The training process's error: of its own class if errors.py has it, else by exit code."""
    kind = vars(errors).get(outcome["error"], NanoDistillError)
    if issubclass(kind, errors.ProblemsError) or kind.exit_code != outcome["exit"]:
        by_code = {2: errors.InputError, 3: RunIncompleteError, 4: MemoryLimitError}
        kind = by_code.get(outcome["exit"], NanoDistillError)
    error: NanoDistillError = kind(outcome["message"], next_step=outcome["next_step"])
    return error


def _run_process(
    folder: TrainingFolder,
    job: TrainingJob,
    follow: Callable[[Record], None],
    on_event: Listener,
    stop: threading.Event,
) -> Outcome:
    """Run one training process to its end; how it ended."""
    _wait_for_orphan(folder, on_event)
    folder.outcome.unlink(missing_ok=True)
    write_json(folder.job, replace(job, parent=os.getpid()).to_json())
    kills_before = memory_kills()
    with folder.log.open("ab") as log:
        log_start = log.tell()
        process = _start_process(folder, log)
        reader = MetricsReader(folder.metrics, process.pid)
        terminated = False
        try:
            while process.poll() is None:
                for record in reader.new_records():
                    follow(record)
                if stop.is_set() and not terminated:
                    process.send_signal(signal.SIGTERM)
                    terminated = True
                if terminated:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_SECONDS)
                else:
                    stop.wait(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    for record in reader.new_records():
        follow(record)
    if process.returncode in (-signal.SIGTERM, -signal.SIGINT):
        outcome = STOPPED  # it got the signal before it could handle it
    else:
        outcome = _read_outcome(folder, process.returncode, log_start, kills_before)
    if outcome["ending"] == "stopped" and not stop.is_set():
        raise TrainingEndedError(
            "Another process ended the training process.",
            next_step="Rerun the command to resume from the last checkpoint.",
        )
    return outcome


def _start_process(folder: TrainingFolder, log: IO[bytes]) -> subprocess.Popen[bytes]:
    package = str(Path(nanodistill.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "nanodistill.training.worker", str(folder.root)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
    )


def memory_kills() -> int | None:
    """How many processes the system has killed for memory; None if it doesn't count them."""
    try:
        counters = dict(line.split() for line in VMSTAT.read_text().splitlines())
        return int(counters["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


def _read_outcome(
    folder: TrainingFolder, code: int, log_start: int, kills_before: int | None
) -> Outcome:
    """outcome.json, or what exit code and log say of a process that left none."""
    if folder.outcome.exists():
        return read_json(folder.outcome)
    with folder.log.open("rb") as log:
        log.seek(log_start)
        text = log.read().decode(errors="replace")[-LOG_TAIL:].strip()
    if code == DiskFullError.exit_code:
        raise DiskFullError(
            f"No space left on the disk of {folder.root}.",
            next_step="Free some space and rerun the command to resume from the last checkpoint.",
        )
    if code == -signal.SIGKILL and (kills_before is None or memory_kills() != kills_before):
        return {"ending": "out of memory", "message": KILLED}
    last_line = text.splitlines()[-1] if text else ""
    if is_out_of_memory(text):
        return {"ending": "out of memory", "message": last_line}
    cause = f"signal {-code}" if code < 0 else f"exit status {code}"
    raise TrainingProcessError(cause, last_line or cause, folder.log)


def _wait_for_orphan(folder: TrainingFolder, on_event: Listener) -> None:
    """Let the training process of a killed command write its checkpoint and end."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_event(Notice("waiting for the training process of an earlier command to end"))
        try:
            lock.acquire(timeout=ORPHAN_SECONDS)
        except Timeout as busy:
            raise RunLockedError(
                f"Another process is still training in {folder.root}.",
                next_step="End it, then rerun the command.",
            ) from busy
    lock.release()
