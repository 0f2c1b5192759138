"""The process that makes files: `python -m nanodistill.exporting.child`, a job on its input."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanodistill.errors import NanoDistillError
from nanodistill.exporting.job import Job, Made
from nanodistill.models.blas import load_fast_blas


def make(job: Job) -> Made:
    """Do `job` in this process, which must not have imported mlx yet."""
    load_fast_blas()
    from nanodistill.exporting.folder import write_weights
    from nanodistill.exporting.fuse import fused, unpacked
    from nanodistill.exporting.gguf.writer import write_gguf

    base, target = Path(job.base), Path(job.target)
    model = fused(base, Path(job.adapter))
    if job.form == "f16" or job.form == "q8_0":
        tokenizer = Path(job.settings["tokenizer"])
        write_gguf(model, tokenizer, target, job.form, job.settings)
        return Made(len(model.changed), target.stat().st_size)
    if job.form == "plain":
        write_weights(unpacked(model), target, "unquantized")
    else:
        write_weights(model, target, job.form)
    return Made(len(model.changed), sum(file.stat().st_size for file in target.iterdir()))


def main() -> None:
    # The terminal sends Ctrl-C to both; it is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get between the lines
    try:
        said: dict[str, Any] = {"made": asdict(make(Job(**json.load(sys.stdin))))}
    except NanoDistillError as failed:
        said = {"failed": failed.message, "next_step": failed.next_step}
    json.dump(said, out)
    out.flush()


if __name__ == "__main__":
    main()
