"""The command's side of a training run: starts the child, follows it, mends what it died of.

A child that dies of memory is started again from its last checkpoint with half
the batch and twice the accumulation, which trains the same updates (with
dropout, under other draws); when the batch is one row, with gradient
checkpointing; after that the student does not fit. What was changed is told, and
kept in adjusted.json for the next time. One that dies of something else (a
driver, a signal) goes on as it was, if it had got further than its last start.

The child is in a session of its own: Ctrl-C and a closed terminal reach the
command alone, which asks the child to write a checkpoint and end. If the
command itself is killed, the child notices and does the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nanodistill
from nanodistill import errors
from nanodistill.errors import (
    DiskFullError,
    MemoryLimitError,
    NanoDistillError,
    RunIncompleteError,
    RunLockedError,
)
from nanodistill.events import Listener, Notice
from nanodistill.run_dir import checked, read_json, write_json
from nanodistill.training.metrics_log import MetricsReader, Record
from nanodistill.training.runs import TrainingFolder
from nanodistill.training.worker import TrainingJob, is_out_of_memory

POLL = 0.2
FORMER_CHILD = 120.0
"""Seconds in which the child of a killed command has to write its checkpoint and end."""
LOG_TAIL = 4000
VMSTAT = Path("/proc/vmstat")
"""Linux counts there what it killed for memory. macOS tells nobody: there every SIGKILL counts."""
KILLED = "its process was killed, as the system does then"

Outcome = Mapping[str, Any]
STOPPED: Outcome = {"ending": "stopped"}


@dataclass(frozen=True)
class MemoryPlan:
    """How the work is cut to fit into memory; the updates are the same in each."""

    micro_batch: int
    checkpointing: bool

    def smaller(self) -> MemoryPlan | None:
        """What to try after this ran out of memory; None if there is nothing left."""
        if self.micro_batch > 1:
            return replace(self, micro_batch=(self.micro_batch + 1) // 2)
        return None if self.checkpointing else replace(self, checkpointing=True)

    def told(self, rows_per_update: int) -> str:
        accumulation = -(-rows_per_update // self.micro_batch)
        said = f"batches of {self.micro_batch}, {accumulation} to an update"
        return f"{said}, with gradient checkpointing" if self.checkpointing else said


class TrainingEndedError(RunIncompleteError):
    """Somebody else ended the training process, which wrote a checkpoint."""


class TrainingProcessError(NanoDistillError):
    """The child died of something that is not memory; `how` in a few words."""

    def __init__(self, how: str, said: str, log: Path) -> None:
        super().__init__(
            f"The training process died: {said}",
            next_step=f"Its whole output is in {log}. Run the command again to go on from the "
            "last checkpoint.",
        )
        self.how = how


def supervise(
    folder: TrainingFolder,
    job: TrainingJob,
    *,
    follow: Callable[[Record], None],
    on_event: Listener,
    stop: threading.Event,
) -> Outcome:
    """Train in a child until it ends by itself or `stop` is set; how it ended.

    Raises:
        MemoryLimitError: the guard stopped it, or nothing made it fit.
        Died: it died, and would again.
        NanoDistillError: what the child raised.
    """
    fit = _remembered(folder, MemoryPlan(job.micro_batch, job.checkpointing))
    while True:
        job = replace(job, micro_batch=fit.micro_batch, checkpointing=fit.checkpointing)
        saved = last_saved(folder)
        try:
            outcome = _attempt(folder, job, follow, on_event, stop)
        except TrainingProcessError as died:
            if last_saved(folder) == saved or stop.is_set():
                raise
            text = f"the training process died ({died.how}); going on from the last checkpoint"
            on_event(Notice(text, level="warning"))
            continue
        if outcome["ending"] != "out of memory":
            return _judged(outcome)
        if stop.is_set():
            return STOPPED
        fit = _smaller(fit, outcome["message"])
        write_json(folder.adjusted, asdict(fit))
        said = fit.told(job.options.rows_per_update)
        text = f"training ran out of memory ({outcome['message']}); going on from the last "
        on_event(Notice(f"{text}checkpoint with {said}", level="warning"))


def _smaller(fit: MemoryPlan, how: str) -> MemoryPlan:
    smaller = fit.smaller()
    if smaller is None:
        raise MemoryLimitError(
            "Training ran out of memory with one row to a batch and gradient checkpointing "
            f"({how}).",
            next_step="Choose a smaller or quantized student, a smaller max_seq_length, "
            "fewer lora_layers, or a machine with more memory.",
        )
    return smaller


def last_saved(folder: TrainingFolder) -> str:
    """The name of the latest checkpoint: as long as it changes, training gets further."""
    if not folder.checkpoints.is_dir():
        return ""
    return max((p.name for p in folder.checkpoints.iterdir() if p.name.isdigit()), default="")


def _remembered(folder: TrainingFolder, fit: MemoryPlan) -> MemoryPlan:
    """The cut that an earlier attempt of this run had to go down to."""
    if not folder.adjusted.exists():
        return fit
    return checked(folder.adjusted, read_json(folder.adjusted), MemoryPlan)


def _judged(outcome: Outcome) -> Outcome:
    if outcome["ending"] not in ("refused", "memory"):
        return outcome
    raise raised_by_child(outcome)


def raised_by_child(outcome: Outcome) -> NanoDistillError:
    """The child's error again: of its own kind where errors.py has it, else of its exit code's."""
    kind = vars(errors).get(outcome["error"], errors.NanoDistillError)
    if issubclass(kind, errors.ProblemsError) or kind.exit_code != outcome["exit"]:
        by_code = {2: errors.InputError, 3: errors.RunIncompleteError, 4: errors.MemoryLimitError}
        kind = by_code.get(outcome["exit"], errors.NanoDistillError)
    error: NanoDistillError = kind(outcome["message"], next_step=outcome["next_step"])
    return error


def _attempt(
    folder: TrainingFolder,
    job: TrainingJob,
    follow: Callable[[Record], None],
    on_event: Listener,
    stop: threading.Event,
) -> Outcome:
    _wait_for_former(folder, on_event)
    folder.outcome.unlink(missing_ok=True)
    write_json(folder.job, replace(job, parent=os.getpid()).to_json())
    kills_before = memory_kills()
    with folder.log.open("ab") as log:
        log_from = log.tell()
        child = _start(folder, log)
        reader = MetricsReader(folder.metrics, child.pid)
        try:
            _watch(child, reader, follow, stop)
        finally:
            _end(child)
    for record in reader.new():
        follow(record)
    if child.returncode in (-signal.SIGTERM, -signal.SIGINT):
        outcome = STOPPED  # asked, by us or another, before it could listen
    else:
        outcome = _outcome(folder, child.returncode, log_from, kills_before)
    if outcome["ending"] == "stopped" and not stop.is_set():
        raise TrainingEndedError(
            "The training process was told to end, by another process.",
            next_step="Run the command again to go on from the last checkpoint.",
        )
    return outcome


def _start(folder: TrainingFolder, log: Any) -> subprocess.Popen[bytes]:
    package = str(Path(nanodistill.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-m", "nanodistill.training.worker", str(folder.root)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )


def _watch(
    child: subprocess.Popen[bytes],
    reader: MetricsReader,
    follow: Callable[[Record], None],
    stop: threading.Event,
) -> None:
    asked = False
    while child.poll() is None:
        for record in reader.new():
            follow(record)
        if stop.is_set() and not asked:
            child.send_signal(signal.SIGTERM)
            asked = True
        if asked:
            _wait(child)
        else:
            stop.wait(POLL)


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(POLL)
    except subprocess.TimeoutExpired:
        return


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave no child behind when following it was broken off."""
    if child.poll() is None:
        child.kill()
    child.wait()


def memory_kills() -> int | None:
    """How many processes this system has killed for memory; None where it does not count them."""
    try:
        counters = dict(line.split() for line in VMSTAT.read_text().splitlines())
        return int(counters["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


def _outcome(folder: TrainingFolder, code: int, log_from: int, kills_before: int | None) -> Outcome:
    if folder.outcome.exists():
        return read_json(folder.outcome)
    with folder.log.open("rb") as log:
        log.seek(log_from)
        written = log.read().decode(errors="replace")[-LOG_TAIL:]
    if code == DiskFullError.exit_code:
        raise DiskFullError(
            f"There is no room left on the disk of {folder.root}.",
            next_step="Make room and run the command again: it goes on from the last checkpoint.",
        )
    if code == -signal.SIGKILL and (kills_before is None or memory_kills() != kills_before):
        return {"ending": "out of memory", "message": KILLED}
    if is_out_of_memory(written):
        return {"ending": "out of memory", "message": written.strip().splitlines()[-1]}
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    raise TrainingProcessError(how, (written.strip().splitlines() or [how])[-1], folder.log)


def _wait_for_former(folder: TrainingFolder, on_event: Listener) -> None:
    """Let the child of a command that was killed write its checkpoint and end."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_event(Notice("waiting for the training process of an earlier command to end"))
        try:
            lock.acquire(timeout=FORMER_CHILD)
        except Timeout as busy:
            raise RunLockedError(
                f"Another process trains in {folder.root} and does not end.",
                next_step="End it, then run the command again.",
            ) from busy
    lock.release()
