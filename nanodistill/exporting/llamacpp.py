"""llama.cpp itself, where it is installed: what a GGUF file answers there.

Reading a GGUF file back tells whether its weights and tokenizer are right, but
llama.cpp computes in its own way (activations of eight bits under Q8_0, a
template engine of its own), and that is what the file will meet. So where
the package `xllamacpp` is there, the parity gate asks llama.cpp. It runs in a
child process, for its threads and memory, and because it ends a process that
gives it a file which it does not like.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from nanodistill.errors import CheckFailed
from nanodistill.events import Listener, Progress
from nanodistill.hardware import cores
from nanodistill.records import FinishReason, Message

LIBRARY = "xllamacpp"
CHILD = (sys.executable, "-m", "nanodistill.exporting.llamacpp")
LARGEST_CONTEXT = 8192
LAST_LINES = 8
LOAD_WINDOW = 1.0
"""Seconds over which the processors' load is taken."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What llama.cpp answered to one prompt."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


def is_at_hand() -> bool:
    return importlib.util.find_spec(LIBRARY) is not None


def ask(
    file: Path, prompts: Sequence[Sequence[Message]], max_tokens: int, listen: Listener
) -> list[Answered]:
    """What the model in `file` answers to chats, greedily.

    Raises:
        CheckFailed: llama.cpp does not load the file, or does not answer.
    """
    job = {"file": str(file), "prompts": [list(p) for p in prompts], "max_tokens": max_tokens}
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(json.dumps(job).encode())
        asked.seek(0)
        with subprocess.Popen(CHILD, stdin=asked, stdout=subprocess.PIPE, stderr=said) as child:
            try:
                found = list(_followed(child, len(prompts), listen))
            finally:
                child.kill()
        if len(found) < len(prompts):
            said.seek(0)
            raise _refused(file, said.read().decode(errors="replace"))
    return found


def _followed(child: subprocess.Popen[bytes], total: int, listen: Listener) -> Iterator[Answered]:
    for done, line in enumerate(child.stdout or (), start=1):
        yield Answered(**json.loads(line))
        listen(Progress("llama.cpp", done, total, "answers"))


def _refused(file: Path, said: str) -> CheckFailed:
    last = "\n".join(said.splitlines()[-LAST_LINES:])
    return CheckFailed(f"llama.cpp does not answer with {file.name}. The last it said:\n{last}")


def free_cores() -> int:
    """Cores that nothing else uses now: llama.cpp's threads wait for each other at every layer, so
    one that gets no core holds up all of them."""
    busy = psutil.cpu_percent(interval=LOAD_WINDOW) / 100
    return max(1, cores() - round(busy * (os.cpu_count() or 1)))


def serve(job: dict[str, Any]) -> Iterator[Answered]:
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
        yield Answered(
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
