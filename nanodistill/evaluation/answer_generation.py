"""Generate missing answers in a child process, and keep every answer.

`AnswerCache` holds answers in `evaluation/answers.jsonl`, one JSON line each,
keyed by the hash of what decides an answer: weights, adapter, messages, shots,
length limit (decoding is always greedy). An answer is on disk before it counts.
A killed evaluation therefore resumes, the base answers once for all training
runs, and repeating an evaluation loads no model. A torn last line, what a crash
leaves of an answer that never counted, is dropped; any other unreadable line is
an error.

Not promised: the same bits as one-by-one generation. Which prompts share a
batch changes the last bits of the logits, for every model alike.

`GenerationWorker` runs the models in a child process (`worker.py`), so that
their memory is released, a notebook that has imported MLX still gets the fast
BLAS, and the system's out-of-memory killer takes no caller down. The child
keeps its last model loaded between jobs and ends with its parent.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import nanodistill
from nanodistill.config import DeliverySettings
from nanodistill.errors import (
    CorruptFileError,
    DiskFullError,
    ModelError,
    NanoDistillError,
    RunInterruptedError,
)
from nanodistill.evaluation.endpoint import Endpoint, ask_endpoint
from nanodistill.evaluation.eval_models import DISPLAY_NAMES, EvalModel
from nanodistill.evaluation.eval_set import EvalExample
from nanodistill.evaluation.worker import GeneratedAnswer, GenerationJob, GenerationTask, TaskPrompt
from nanodistill.events import Listener, Notice, Progress
from nanodistill.interrupts import on_interrupt
from nanodistill.training.worker import is_out_of_memory

CHILD = (sys.executable, "-P", "-m", "nanodistill.evaluation.worker")
# Enough of the child's stderr for the exception and its last frames, short enough for an error.
STDERR_LINES = 8


class OutOfMemoryError(NanoDistillError):
    """The child died the way a process does that asked for too much memory."""


class AnswerCache(dict[str, GeneratedAnswer]):
    """The answers in `path` by key. `add` works inside `with cache.writing():`.

    Raises:
        CorruptFileError: a line other than a torn last one is unreadable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file: BinaryIO | None = None
        content = path.read_bytes() if path.exists() else b""
        for number, line in enumerate(content[: _end_of_lines(content)].splitlines(), start=1):
            try:
                answer = GeneratedAnswer(**json.loads(line))
            except (ValueError, TypeError) as damaged:
                raise CorruptFileError(
                    f"{path}:{number} is not an answer of an evaluation.",
                    next_step="Delete the file; its answers are generated again.",
                ) from damaged
            self[answer.key] = answer

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open the file for `add`, and cut off a torn last line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as self._file:
            self._file.truncate(_end_of_lines(self.path.read_bytes()))
            try:
                yield
            finally:
                self._file = None

    def add(self, answer: GeneratedAnswer) -> None:
        """Keep an answer. It is on disk when this returns.

        Raises:
            DiskFullError: the disk is full.
        """
        if self._file is None:
            raise ValueError("answers are added inside `with cache.writing():`")
        try:
            self._file.write(json.dumps(answer.to_json()).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as failed:
            if failed.errno == errno.ENOSPC:
                raise DiskFullError(
                    f"no space left on the disk for {self.path}.",
                    next_step="Free some space, then rerun the command; answers so far are kept.",
                ) from failed
            raise
        self[answer.key] = answer


def _end_of_lines(content: bytes) -> int:
    """Length of `content` up to and with its last newline."""
    return content.rfind(b"\n") + 1


class GenerationWorker:
    """Runs jobs in a child process.

    Example:
        with GenerationWorker(on_event) as worker:
            answers = list(worker.run(job))
    """

    def __init__(self, on_event: Listener, command: Sequence[str] = CHILD) -> None:
        self._on_event = on_event
        self._command = command
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._child: subprocess.Popen[bytes] | None = None
        self._is_interrupted = False
        self._until_exit = ExitStack()

    def __enter__(self) -> Self:
        # In a session of its own: the parent decides what Ctrl-C and a closed terminal mean.
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=child_environment(),
            start_new_session=True,
        )
        self._until_exit.enter_context(on_interrupt(self._interrupt))
        return self

    def __exit__(self, *_: object) -> None:
        self._until_exit.close()
        child = self._running_child()
        child.kill()
        child.communicate()
        self._stderr.close()

    def run(self, job: GenerationJob) -> Iterator[GeneratedAnswer]:
        """The answers to the job's prompts, in the order in which they finish.

        Raises:
            ModelError: a model or adapter can't be used.
            OutOfMemoryError: the child was killed, as the system does when memory runs out.
            RunInterruptedError: Ctrl-C or SIGTERM.
            NanoDistillError: the child ended in another way.
        """
        child = self._running_child()
        stdin, stdout = _pipe(child.stdin), _pipe(child.stdout)
        try:
            stdin.write(json.dumps(job.to_json()).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._exit_error(child) from None
        for line in stdout:
            message = json.loads(line)
            if "done" in message:
                return
            if "failed" in message:
                raise ModelError(message["failed"], next_step=message["next_step"])
            if "notice" in message:
                self._on_event(Notice(**message["notice"]))
            else:
                yield GeneratedAnswer(**message["generated"])
        raise self._exit_error(child)

    def _interrupt(self) -> None:
        self._is_interrupted = True
        self._running_child().kill()

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise ValueError("use GenerationWorker inside `with`")
        return self._child

    def _exit_error(self, child: subprocess.Popen[bytes]) -> NanoDistillError:
        """Why a child ended before its job did."""
        code = child.wait()
        if self._is_interrupted:
            return RunInterruptedError(
                "interrupted. Answers so far are kept.",
                next_step="Rerun the same command to resume.",
            )
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()
        stderr = "\n".join(lines[-STDERR_LINES:])
        if code == -signal.SIGKILL or is_out_of_memory(stderr):
            return OutOfMemoryError(
                "generation ran out of memory, and the system ended its process.",
                next_step="Set a smaller eval_batch_size, or close other programs.",
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return NanoDistillError(f"generation ended with {how}. Its last output:\n{stderr}")


def child_environment() -> dict[str, str]:
    """An environment in which the child imports this very package, from any directory."""
    package = str(Path(nanodistill.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _pipe(pipe: Any) -> BinaryIO:
    """Popen types its pipes as optional; the child was started with both."""
    stream: BinaryIO = pipe
    return stream


@dataclass(frozen=True)
class PendingAnswers:
    """The answers wanted of one model: a key for each row."""

    eval_model: EvalModel
    rows: Sequence[EvalExample]
    keys: Sequence[str]

    def missing(self, cache: AnswerCache) -> tuple[TaskPrompt, ...]:
        return tuple(
            TaskPrompt(key, row.messages)
            for key, row in zip(self.keys, self.rows, strict=True)
            if key not in cache
        )

    def task(self, prompts: tuple[TaskPrompt, ...]) -> GenerationTask:
        model = self.eval_model
        adapter = str(model.adapter) if model.adapter else None
        return GenerationTask(
            model.model.name, adapter, model.shots, prompts, model.tokenizer_kwargs
        )


def generate_missing(
    pending: Sequence[PendingAnswers],
    cache: AnswerCache,
    settings: DeliverySettings,
    on_event: Listener,
    command: Sequence[str] = CHILD,
) -> int:
    """Generate the answers that `cache` lacks, and add each as it arrives.

    A child that runs out of memory is restarted with half the batch size.

    Returns:
        The number of answers generated.

    Raises:
        ModelError: a model or adapter can't be used.
        OutOfMemoryError: memory does not suffice for a single prompt.
        EndpointError: an endpoint failed.
    """
    before = len(cache)
    model_of = {key: one.eval_model.name for one in pending for key in one.keys}
    already = sum(key in cache for key in model_of)
    begun = time.monotonic()

    def keep(answers: Iterator[GeneratedAnswer]) -> None:
        for answer in answers:
            cache.add(answer)
            done, elapsed = already + len(cache) - before, time.monotonic() - begun
            rate = (done - already) / elapsed
            on_event(
                Progress(
                    "evaluate",
                    done,
                    len(model_of),
                    "answers",
                    seconds_left=(len(model_of) - done) / rate,
                    figures={"model": DISPLAY_NAMES[model_of[answer.key]], "answers/s": rate},
                )
            )

    with cache.writing():
        for one in pending:
            if isinstance(one.eval_model.model, Endpoint) and (prompts := one.missing(cache)):
                endpoint, at_once = one.eval_model.model, settings.eval_batch_size
                keep(ask_endpoint(endpoint, prompts, settings.max_new_tokens, at_once))
        batch_size = settings.eval_batch_size
        while tasks := [
            one.task(prompts)
            for one in pending
            if not isinstance(one.eval_model.model, Endpoint) and (prompts := one.missing(cache))
        ]:
            job = GenerationJob(tuple(tasks), settings.max_new_tokens, batch_size)
            try:
                with GenerationWorker(on_event, command) as worker:
                    keep(worker.run(job))
            except OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                text = f"out of memory; retrying with batch size {batch_size}"
                on_event(Notice(text, "warning"))
    return len(cache) - before
