"""The child process that makes files, seen from the parent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from nanodistill.errors import ModelError, NanoDistillError
from nanodistill.exporting.job import Job, Made

CHILD = (sys.executable, "-m", "nanodistill.exporting.child")
LAST_LINES = 8


def make(job: Job) -> Made:
    """Do `job` in a child process.

    Raises:
        ModelError: the model or its adapter can't be used, or can't be written in this form.
        NanoDistillError: the child ended in another way.
    """
    child = subprocess.run(
        CHILD, input=json.dumps(job.to_json()).encode(), capture_output=True, check=False
    )
    if child.returncode != 0:
        raise _ended(child)
    said = json.loads(child.stdout)
    if "failed" in said:
        raise ModelError(said["failed"], next_step=said["next_step"])
    return Made(**said["made"])


def _ended(child: subprocess.CompletedProcess[bytes]) -> NanoDistillError:
    code = child.returncode
    last = "\n".join(child.stderr.decode(errors="replace").splitlines()[-LAST_LINES:])
    if code in (-signal.SIGKILL, -signal.SIGABRT) or "MemoryError" in last:
        return NanoDistillError(
            "the export ran out of memory: its process was ended by the system.",
            next_step="Close other programs and run the command again.",
        )
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return NanoDistillError(f"the export ended with {how}. The last it said:\n{last}")
