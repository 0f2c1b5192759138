"""What the evaluation asks its child process for, and what comes back.

One line of JSON each way: a `GenerationJob` in, and for every prompt a `GeneratedAnswer` out
as soon as it is there, in the order in which they finish. A job ends with
`{"done": …}`, or with `{"failed": …}` where a model can't be used.

The process that holds the models: `python -m nanodistill.evaluation.worker`.

Reads jobs from standard input and writes what comes of them to standard output,
a line of JSON each (see job.py). The last model stays loaded for the next job.
The parent's end of the pipes is its life: when it closes, so does this.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from nanodistill.errors import NanoDistillError
from nanodistill.evaluation.prompt_prefix import after_prefix
from nanodistill.events import Event, Listener, Notice
from nanodistill.models.generation import PromptTooLongError, generate_each, prompt_tokens
from nanodistill.models.loading import LoadedModel, load_model
from nanodistill.models.sampling import Sampling
from nanodistill.types import FinishReason, Message


@dataclass(frozen=True, slots=True)
class TaskPrompt:
    """One thing to ask; its answer comes back under `key`."""

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Prompts for one model.

    `shots` are turns put after the system message of every prompt, as many
    whole pairs of them, counted from the first, as the model's context holds.
    `tokenizer_kwargs` go to the loader of its tokenizer.
    """

    model: str
    adapter: str | None
    shots: tuple[Message, ...]
    prompts: tuple[TaskPrompt, ...]
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """Tasks to do one after another, with greedy decoding."""

    tasks: tuple[GenerationTask, ...]
    max_new_tokens: int
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GenerationJob:
        tasks = [
            GenerationTask(
                model=task["model"],
                adapter=task["adapter"],
                shots=tuple(task["shots"]),
                prompts=tuple(TaskPrompt(p["key"], tuple(p["messages"])) for p in task["prompts"]),
                tokenizer_kwargs=task["tokenizer_kwargs"],
            )
            for task in value["tasks"]
        ]
        return cls(tuple(tasks), value["max_new_tokens"], value["batch_size"])


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A model's answer to one prompt.

    `seconds` is the time since the answer before it (or the start of its
    task, the model being loaded): over all answers of a task they sum up to the
    time that it took. `peak_memory` is in bytes, MLX's own count.
    """

    key: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    peak_memory: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ModelCache:
    """Loads models, one at a time."""

    def __init__(self, on_event: Listener) -> None:
        self._listen = on_event
        self._loaded: LoadedModel | None = None
        self._named: tuple[str, str | None, Mapping[str, Any]] | None = None

    def get(self, task: GenerationTask) -> LoadedModel:
        named = (task.model, task.adapter, task.tokenizer_kwargs)
        if self._loaded is None or self._named != named:
            self._loaded = None  # given back before the next one comes
            self._loaded = load_model(
                task.model,
                adapter=Path(task.adapter) if task.adapter else None,
                tokenizer_kwargs=task.tokenizer_kwargs,
                on_event=self._listen,
            )
            self._named = named
        return self._loaded


def answers(job: GenerationJob, models: ModelCache) -> Iterator[GeneratedAnswer]:
    """The answers to all prompts of a job."""
    for task in job.tasks:
        yield from _task_answers(models.get(task), task, job)


def _task_answers(
    loaded: LoadedModel, task: GenerationTask, job: GenerationJob
) -> Iterator[GeneratedAnswer]:
    import mlx.core as mx

    mx.reset_peak_memory()
    before = time.perf_counter()
    shots = fitting_shots(loaded, task, job.max_new_tokens)
    asked = [(prompt, tokens_of(loaded, prompt, shots)) for prompt in task.prompts]
    yield from (_too_long(prompt) for prompt, tokens in asked if tokens is None)
    fitting = [(prompt, tokens) for prompt, tokens in asked if tokens is not None]
    ready = after_prefix(loaded, [tokens for _, tokens in fitting])
    sampling = Sampling(job.max_new_tokens)
    for index, answer in generate_each(
        ready.loaded, ready.prompts, sampling, max_batch=job.batch_size
    ):
        now = time.perf_counter()
        yield GeneratedAnswer(
            key=fitting[index][0].key,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=ready.length + answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            seconds=now - before,
            peak_memory=mx.get_peak_memory(),
        )
        before = now


def fitting_shots(
    loaded: LoadedModel, task: GenerationTask, max_new_tokens: int
) -> Sequence[Message]:
    """As many of the task's shots as leave room for its longest prompt and an answer."""
    context = loaded.config.get("max_position_embeddings")
    if context is None or not task.shots:
        return task.shots
    longest = max(task.prompts, key=lambda prompt: sum(len(m["content"]) for m in prompt.messages))
    for turns in range(len(task.shots), 0, -2):
        tokens = tokens_of(loaded, longest, task.shots[:turns])
        if tokens is not None and len(tokens) + max_new_tokens <= context:
            return task.shots[:turns]
    return ()


def tokens_of(
    loaded: LoadedModel, prompt: TaskPrompt, shots: Sequence[Message]
) -> list[int] | None:
    """The prompt's tokens with the shots behind its system message; None if it is too long."""
    head = [message for message in prompt.messages if message["role"] == "system"]
    rest = [message for message in prompt.messages if message["role"] != "system"]
    try:
        return prompt_tokens(loaded, [*head, *shots, *rest])
    except PromptTooLongError:
        return None


def _too_long(prompt: TaskPrompt) -> GeneratedAnswer:
    """No answer to a prompt that the model's context does not hold."""
    return GeneratedAnswer(prompt.key, "", "length", 0, 0, 0.0, 0)


def serve(jobs: queue.SimpleQueue[bytes], out: BinaryIO) -> None:
    """Do jobs for ever."""

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")
        out.flush()

    def on_event(event: Event) -> None:
        if isinstance(event, Notice):
            tell({"notice": asdict(event)})

    models = ModelCache(on_event)
    while True:
        job = GenerationJob.from_json(json.loads(jobs.get()))
        try:
            for answer in answers(job, models):
                tell({"generated": answer.to_json()})
            tell({"done": True})
        except NanoDistillError as failed:
            tell({"failed": failed.message, "next_step": failed.next_step})


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the lines
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    try:
        serve(jobs, out)
    except BaseException:  # noqa: BLE001 - an orderly exit would wait for the reading thread
        traceback.print_exc()
        os._exit(1)


def _read(jobs: queue.SimpleQueue[bytes]) -> None:
    """Take jobs from standard input until the parent closes it, then end the process."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
