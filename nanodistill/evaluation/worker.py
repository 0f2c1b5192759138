"""The child process that holds the models: `python -m nanodistill.evaluation.worker`.

The protocol is one JSON line each way. The parent writes a `GenerationJob` to
standard input; the child writes `{"generated": …}` for each prompt as it
finishes, in the order in which they finish, `{"notice": …}` for what a person
should see, and ends a job with `{"done": true}`, or with `{"failed": …}` if a
model can't be used. The last model stays loaded for the next job. When the
parent closes its end of the pipe, the child exits.

Prompts share their beginning: the instruction, and shots after it. On a CPU
reading that is most of the work, so the child reads it once (`share_prefix`)
and hands batched generation prompts without it, on a model whose new caches are
already filled. Answers differ from those to whole prompts only in the last bits
of the logits, which depend on the shape of a batch anyway.
"""

from __future__ import annotations

import copy
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from nanodistill.errors import NanoDistillError
from nanodistill.events import Event, Listener, Notice
from nanodistill.models.generation import PromptTooLongError, generate_each, prompt_tokens
from nanodistill.models.loading import LoadedModel, load_model
from nanodistill.models.sampling import Sampling
from nanodistill.types import FinishReason, Message

# Tokens. A shorter prefix does not repay a forward pass of its own; most instructions are
# longer, so the exact value matters little.
MIN_PREFIX = 16
# Tokens per forward pass over the prefix. It bounds the memory of the attention scores of long
# few-shot prompts: twice as many take twice the memory, half as many take more passes.
PREFILL_STEP = 512


@dataclass(frozen=True, slots=True)
class TaskPrompt:
    """One prompt. Its answer comes back under `key`."""

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Prompts for one model.

    `shots` are chat turns placed after the system message of every prompt: as many
    whole pairs of them, from the first, as the model's context holds.
    `tokenizer_kwargs` go to the tokenizer's loader.
    """

    model: str
    adapter: str | None
    shots: tuple[Message, ...]
    prompts: tuple[TaskPrompt, ...]
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """Tasks to run one after another, with greedy decoding."""

    tasks: tuple[GenerationTask, ...]
    max_new_tokens: int
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GenerationJob:
        tasks = []
        for task in value["tasks"]:
            prompts = [TaskPrompt(p["key"], tuple(p["messages"])) for p in task["prompts"]]
            shots = tuple(task["shots"])
            tasks.append(GenerationTask(**{**task, "shots": shots, "prompts": tuple(prompts)}))
        return cls(tuple(tasks), value["max_new_tokens"], value["batch_size"])


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A model's answer to one prompt.

    `seconds` counts from the answer before it, or from the start of its task once
    the model is loaded: over all answers of a task it sums to the time the task
    took. `peak_memory` is in bytes, by MLX's count.
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
    """Loads models, and holds one at a time."""

    def __init__(self, on_event: Listener) -> None:
        self._on_event = on_event
        self._loaded: LoadedModel | None = None
        self._key: tuple[str, str | None, Mapping[str, Any]] | None = None

    def get(self, task: GenerationTask) -> LoadedModel:
        key = (task.model, task.adapter, task.tokenizer_kwargs)
        if self._loaded is None or self._key != key:
            self._loaded = None  # freed before the next one is loaded
            self._loaded = load_model(
                task.model,
                adapter=Path(task.adapter) if task.adapter else None,
                tokenizer_kwargs=task.tokenizer_kwargs,
                on_event=self._on_event,
            )
            self._key = key
        return self._loaded


def generate_task(
    loaded: LoadedModel, task: GenerationTask, job: GenerationJob
) -> Iterator[GeneratedAnswer]:
    """The answers to a task's prompts; an empty one where the context does not hold a prompt."""
    import mlx.core as mx

    mx.reset_peak_memory()
    before = time.perf_counter()
    shots = fitting_shots(loaded, task, job.max_new_tokens)
    fitting: list[tuple[str, list[int]]] = []
    for prompt in task.prompts:
        tokens = tokens_of(loaded, prompt, shots)
        if tokens is None:
            yield GeneratedAnswer(prompt.key, "", "length", 0, 0, 0.0, 0)
        else:
            fitting.append((prompt.key, tokens))
    model, prefix, prompts = share_prefix(loaded, [tokens for _, tokens in fitting])
    sampling = Sampling(job.max_new_tokens)
    for index, answer in generate_each(model, prompts, sampling, max_batch=job.batch_size):
        now = time.perf_counter()
        yield GeneratedAnswer(
            key=fitting[index][0],
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=prefix + answer.prompt_tokens,
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
    """The prompt's tokens, with shots after its system message; None if it is too long."""
    head = [message for message in prompt.messages if message["role"] == "system"]
    rest = [message for message in prompt.messages if message["role"] != "system"]
    try:
        return prompt_tokens(loaded, [*head, *shots, *rest])
    except PromptTooLongError:
        return None


class PrefilledModel:
    """A model whose new caches already hold a prefix. Otherwise it is the model."""

    def __init__(self, model: Any, caches: list[Any]) -> None:
        self._model = model
        self._caches = caches

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        return self._model(tokens, cache=cache)

    def make_cache(self) -> list[Any]:
        return [copy.copy(layer) for layer in self._caches]


def share_prefix(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]]
) -> tuple[LoadedModel, int, Sequence[Sequence[int]]]:
    """Read the tokens that all `prompts` begin with once.

    Batched generation finds shared prefixes by itself, but only from the fourth prompt on, and
    pads the others of its first batch to the length of the first three. Here all prompts are
    known: SmolLM2 135M answers 40 rows behind 16 shots, in batches of 8, in 10 s in place of
    41 s (two x86 cores).

    Returns:
        The model that has read the prefix, its length in tokens, and the rest of each prompt;
        the model itself, 0 and whole prompts if the prefix is short or can't be shared.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache, make_prompt_cache

    length = shared_length(prompts) if len(prompts) > 1 else 0
    caches: list[Any] = make_prompt_cache(loaded.model) if length >= MIN_PREFIX else []
    # Rotating, quantized and recurrent caches can't be shared by a shallow copy.
    if not caches or any(type(cache) is not KVCache for cache in caches):
        return loaded, 0, prompts
    for start in range(0, length, PREFILL_STEP):
        tokens = prompts[0][start : min(start + PREFILL_STEP, length)]
        loaded.model(mx.array([tokens]), cache=caches)
        mx.eval([cache.state for cache in caches])
    model: Any = PrefilledModel(loaded.model, caches)
    rest = [prompt[length:] for prompt in prompts]
    return replace(loaded, model=model), length, rest


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    # Of sorted prompts the first and the last differ at the earliest place.
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = max(min(map(len, prompts)) - 1, 0)
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def run_jobs(jobs: queue.SimpleQueue[bytes], out: BinaryIO) -> None:
    """Run jobs forever."""

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")
        out.flush()

    def on_event(event: Event) -> None:
        if isinstance(event, Notice):
            send({"notice": asdict(event)})

    models = ModelCache(on_event)
    while True:
        job = GenerationJob.from_json(json.loads(jobs.get()))
        try:
            for task in job.tasks:
                for answer in generate_task(models.get(task), task, job):
                    send({"generated": answer.to_json()})
            send({"done": True})
        except NanoDistillError as failed:
            send({"failed": failed.message, "next_step": failed.next_step})


def read_jobs(jobs: queue.SimpleQueue[bytes]) -> None:
    """Take jobs from standard input until the parent closes it, then end the process."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up between the protocol's lines
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=read_jobs, args=(jobs,), daemon=True).start()
    try:
        run_jobs(jobs, out)
    except BaseException:  # noqa: BLE001 - a normal exit would wait for the reading thread
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main()
