"""The child process that makes files: `python -m nanodistill.exporting.worker`.

One JSON object each way: an `ExportJob` on standard input, what was made or what went wrong on
standard output. The child holds the model; its memory is freed with it, and it gets the fast BLAS
whatever the caller has imported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nanodistill.errors import ModelError, NanoDistillError
from nanodistill.models.blas import load_fast_blas

MlxForm = Literal["as base", "8 bits", "unquantized"]
GgufType = Literal["f16", "q8_0"]
Form = MlxForm | GgufType
Written = Form | Literal["plain"]
"""`plain` is unpacked as a whole: Hugging Face weights, for other programs to read."""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Fuse `adapter` into the model in folder `base` and write it to `target`.

    MLX forms write weights and config.json into the folder `target`; GGUF
    types the whole file. `settings` are a GGUF file's: its name, chat template
    and the folder with its tokenizer.
    """

    base: str
    adapter: str
    form: Written
    target: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ExportOutput:
    """What was written: how many modules the adapter changed, and the size in bytes."""

    changed: int
    size: int


def run_job(job: ExportJob) -> ExportOutput:
    """Do `job` in this process, which must not have imported mlx yet."""
    load_fast_blas()
    from nanodistill.exporting.gguf_writer import write_gguf
    from nanodistill.exporting.mlx_folder import dequantized, fused, write_weights

    base, target = Path(job.base), Path(job.target)
    model = fused(base, Path(job.adapter))
    if job.form == "f16" or job.form == "q8_0":
        tokenizer = Path(job.settings["tokenizer"])
        write_gguf(model, tokenizer, target, job.form, job.settings)
        return ExportOutput(len(model.changed), target.stat().st_size)
    if job.form == "plain":
        write_weights(dequantized(model), target, "unquantized")
    else:
        write_weights(model, target, job.form)
    return ExportOutput(len(model.changed), sum(file.stat().st_size for file in target.iterdir()))


def main() -> None:
    # The terminal sends Ctrl-C to both; it is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get between the lines
    try:
        said: dict[str, Any] = {"made": asdict(run_job(ExportJob(**json.load(sys.stdin))))}
    except NanoDistillError as failed:
        said = {"failed": failed.message, "next_step": failed.next_step}
    json.dump(said, out)
    out.flush()


if __name__ == "__main__":
    main()


CHILD = (sys.executable, "-m", "nanodistill.exporting.worker")
LAST_LINES = 8


def run_export_job(job: ExportJob) -> ExportOutput:
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
    return ExportOutput(**said["made"])


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
