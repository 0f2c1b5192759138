"""The child process that holds the models, seen from the parent.

Models live in a child so that their memory is given back, a notebook that has
imported MLX already still gets the fast BLAS, and a process that the system
kills for memory takes no caller with it. The child keeps its last model loaded
between jobs, and ends when the parent does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import nanodistill
from nanodistill.errors import Interrupted, ModelError, NanoDistillError
from nanodistill.evaluation.job import Generated, Job
from nanodistill.events import Listener, Notice
from nanodistill.interrupts import on_interrupt
from nanodistill.training.child import is_out_of_memory

CHILD = (sys.executable, "-P", "-m", "nanodistill.evaluation.child")
LAST_LINES = 8


class OutOfMemory(NanoDistillError):
    """The child died as one does that asked for too much memory."""


class Generator:
    """Does jobs in a child process: `with Generator(listen) as generator: generator.run(job)`."""

    def __init__(self, listen: Listener, command: Sequence[str] = CHILD) -> None:
        self._listen = listen
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

    def run(self, job: Job) -> Iterator[Generated]:
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
                yield Generated(**message["generated"])
        raise self._ended(child)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise ValueError("a Generator is used inside `with`")
        return self._child

    def _ended(self, child: subprocess.Popen[bytes]) -> NanoDistillError:
        """What to say of a child that ended before its job did."""
        code = child.wait()
        if self._is_interrupted:
            return Interrupted(
                "interrupted. The answers so far are kept.",
                next_step="Run the same command to go on from here.",
            )
        last = self._last_lines()
        if code == -signal.SIGKILL or is_out_of_memory(last):
            return OutOfMemory(
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
