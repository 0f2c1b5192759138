"""What the evaluation asks its child process for, and what comes back.

One line of JSON each way: a `Job` in, and for every prompt a `Generated` out
as soon as it is there, in the order in which they finish. A job ends with
`{"done": …}`, or with `{"failed": …}` where a model can't be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nanodistill.records import FinishReason, Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to ask; its answer comes back under `key`."""

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts for one model.

    `shots` are turns put after the system message of every prompt, as many
    whole pairs of them, counted from the first, as the model's context holds.
    `tokenizer_kwargs` go to the loader of its tokenizer.
    """

    model: str
    adapter: str | None
    shots: tuple[Message, ...]
    prompts: tuple[Prompt, ...]
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks to do one after another, with greedy decoding."""

    tasks: tuple[Task, ...]
    max_new_tokens: int
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        tasks = [
            Task(
                model=task["model"],
                adapter=task["adapter"],
                shots=tuple(task["shots"]),
                prompts=tuple(Prompt(p["key"], tuple(p["messages"])) for p in task["prompts"]),
                tokenizer_kwargs=task["tokenizer_kwargs"],
            )
            for task in value["tasks"]
        ]
        return cls(tuple(tasks), value["max_new_tokens"], value["batch_size"])


@dataclass(frozen=True, slots=True)
class Generated:
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
