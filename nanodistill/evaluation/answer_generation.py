"""The child process that holds the models, seen from the parent.

Models live in a child so that their memory is given back, a notebook that has
imported MLX already still gets the fast BLAS, and a process that the system
kills for memory takes no caller with it. The child keeps its last model loaded
between jobs, and ends when the parent does.

Has the missing answers generated, and keeps each as it comes.

A child that runs out of memory is started again with half the batch, from where
it was, down to single prompts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import nanodistill
from nanodistill.config import DeliverySettings
from nanodistill.errors import ModelError, NanoDistillError, RunInterruptedError
from nanodistill.evaluation.answer_cache import AnswerCache
from nanodistill.evaluation.endpoint import Endpoint, ask_endpoint
from nanodistill.evaluation.eval_models import DISPLAY_NAMES, EvalModel
from nanodistill.evaluation.eval_set import EvalExample
from nanodistill.evaluation.worker import GeneratedAnswer, GenerationJob, GenerationTask, TaskPrompt
from nanodistill.events import Listener, Notice, Progress
from nanodistill.interrupts import on_interrupt
from nanodistill.training.worker import is_out_of_memory

CHILD = (sys.executable, "-P", "-m", "nanodistill.evaluation.worker")
LAST_LINES = 8


class OutOfMemoryError(NanoDistillError):
    """The child died as one does that asked for too much memory."""


class GenerationWorker:
    """Does jobs in a child process: `with Generator(on_event) as generator: generator.run(job)`."""

    def __init__(self, on_event: Listener, command: Sequence[str] = CHILD) -> None:
        self._listen = on_event
        self._command = command
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._child: subprocess.Popen[bytes] | None = None
        self._is_interrupted = False
        self._until_exit = ExitStack()

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C and a closed terminal are the parent's to act on.
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=child_environment(),
            start_new_session=True,
        )
        self._until_exit.enter_context(on_interrupt(self._interrupt))
        return self

    def _interrupt(self) -> None:
        self._is_interrupted = True
        self._running().kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._until_exit.close()
        child = self._running()
        child.kill()
        child.communicate()
        self._said.close()

    def run(self, job: GenerationJob) -> Iterator[GeneratedAnswer]:
        """The answers to the job's prompts, as they come.

        Raises:
            ModelError: a model or adapter can't be used.
            OutOfMemory: the child was killed, as the system does when memory runs out.
            NanoDistillError: the child ended in another way.
        """
        child = self._running()
        try:
            _pipe(child.stdin).write(json.dumps(job.to_json()).encode() + b"\n")
            _pipe(child.stdin).flush()
        except BrokenPipeError:
            raise self._ended(child) from None
        for line in _pipe(child.stdout):
            message = json.loads(line)
            if "done" in message:
                return
            if "failed" in message:
                raise ModelError(message["failed"], next_step=message["next_step"])
            if "notice" in message:
                self._listen(Notice(**message["notice"]))
            else:
                yield GeneratedAnswer(**message["generated"])
        raise self._ended(child)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise ValueError("a Generator is used inside `with`")
        return self._child

    def _ended(self, child: subprocess.Popen[bytes]) -> NanoDistillError:
        """What to say of a child that ended before its job did."""
        code = child.wait()
        if self._is_interrupted:
            return RunInterruptedError(
                "interrupted. The answers so far are kept.",
                next_step="Run the same command to go on from here.",
            )
        last = self._last_lines()
        if code == -signal.SIGKILL or is_out_of_memory(last):
            return OutOfMemoryError(
                "generation ran out of memory: its process was ended by the system.",
                next_step="Set a smaller eval_batch_size, or close other programs.",
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return NanoDistillError(f"generation ended with {how}. The last it said:\n{last}")

    def _last_lines(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def child_environment() -> dict[str, str]:
    """Where the child finds this very package, whatever the working directory holds."""
    package = str(Path(nanodistill.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _pipe(pipe: Any) -> BinaryIO:
    """A pipe of a child that was started with pipes."""
    stream: BinaryIO = pipe
    return stream


@dataclass(frozen=True)
class PendingAnswers:
    """The answers that one contender owes: a key for each row."""

    contender: EvalModel
    rows: Sequence[EvalExample]
    keys: Sequence[str]

    def missing(self, answers: AnswerCache) -> tuple[TaskPrompt, ...]:
        """What is left to ask."""
        return tuple(
            TaskPrompt(key, row.messages)
            for key, row in zip(self.keys, self.rows, strict=True)
            if key not in answers
        )

    def task(self, prompts: tuple[TaskPrompt, ...]) -> GenerationTask:
        """The same for the child process."""
        contender = self.contender
        adapter = str(contender.adapter) if contender.adapter else None
        kwargs = contender.tokenizer_kwargs
        return GenerationTask(contender.model.name, adapter, contender.shots, prompts, kwargs)


def generate_missing(
    wanted: Sequence[PendingAnswers],
    answers: AnswerCache,
    settings: DeliverySettings,
    on_event: Listener,
    command: Sequence[str] = CHILD,
) -> int:
    """Generate what `answers` lacks; how many that was.

    Raises:
        ModelError: a model or adapter can't be used.
        OutOfMemory: memory does not suffice for a single prompt.
        EndpointFailed: an endpoint did not answer.
    """
    before = len(answers)
    watch = GenerationProgress(wanted, answers, on_event)
    with answers.writing():
        for one in wanted:
            if isinstance(one.contender.model, Endpoint):
                _keep(_from_endpoint(one.contender.model, one, answers, settings), answers, watch)
        local = [one for one in wanted if not isinstance(one.contender.model, Endpoint)]
        _generate_here(local, answers, settings, watch, command)
    return len(answers) - before


def _generate_here(
    wanted: Sequence[PendingAnswers],
    answers: AnswerCache,
    settings: DeliverySettings,
    watch: GenerationProgress,
    command: Sequence[str],
) -> None:
    batch_size = settings.eval_batch_size
    while tasks := [one.task(left) for one in wanted if (left := one.missing(answers))]:
        job = GenerationJob(tuple(tasks), settings.max_new_tokens, batch_size)
        try:
            with GenerationWorker(watch.on_event, command) as generator:
                _keep(generator.run(job), answers, watch)
        except OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            said = f"out of memory; going on with batches of {batch_size}"
            watch.on_event(Notice(said, "warning"))


def _from_endpoint(
    endpoint: Endpoint, one: PendingAnswers, answers: AnswerCache, settings: DeliverySettings
) -> Iterator[GeneratedAnswer]:
    prompts, at_once = one.missing(answers), settings.eval_batch_size
    return (
        ask_endpoint(endpoint, prompts, settings.max_new_tokens, at_once) if prompts else iter(())
    )


def _keep(
    generated: Iterator[GeneratedAnswer], answers: AnswerCache, watch: GenerationProgress
) -> None:
    for answer in generated:
        answers.add(answer)
        watch.saw(answer)


class GenerationProgress:
    """Tells the listener how far generation is."""

    def __init__(
        self, wanted: Sequence[PendingAnswers], answers: AnswerCache, on_event: Listener
    ) -> None:
        self._name = {key: one.contender.name for one in wanted for key in one.keys}
        self._answers = answers
        self.on_event = on_event
        self._begun = time.monotonic()
        self._had = self._done()

    def saw(self, answer: GeneratedAnswer) -> None:
        done, elapsed = self._done(), time.monotonic() - self._begun
        self.on_event(
            Progress(
                "evaluate",
                done,
                len(self._name),
                "answers",
                seconds_left=elapsed / (done - self._had) * (len(self._name) - done),
                figures={
                    "model": DISPLAY_NAMES[self._name[answer.key]],
                    "answers/s": (done - self._had) / elapsed,
                },
            )
        )

    def _done(self) -> int:
        return sum(key in self._answers for key in self._name)
