"""Answers from a loaded model to prompts that are all there: batched, without a thread.

For requests that come and go see generator.py. What a prompt is, and which
prompts can't be answered, holds for both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from nanodistill.errors import InputError, ModelError
from nanodistill.models.batching import Generated, SequenceBatch
from nanodistill.models.sampling import Sampling

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

__all__ = [
    "Generated",
    "Prompt",
    "PromptTooLongError",
    "Sampling",
    "generate_batch",
    "generate_each",
    "prompt_tokens",
]

Message = Mapping[str, Any]
Prompt = Sequence[int] | Sequence[Message]
"""Tokens, or messages with role and content for the model's chat template."""


class PromptTooLongError(InputError):
    """A prompt that leaves no room for an answer in the model's context, both in tokens."""

    def __init__(self, model: str, tokens: int, limit: int) -> None:
        super().__init__(
            f"The prompt has {tokens} tokens, and {model} reads {limit} with its answer"
        )
        self.tokens = tokens
        self.limit = limit


def prompt_tokens(loaded: LoadedModel, prompt: Prompt) -> list[int]:
    """The tokens of `prompt`. A last message of the assistant is one to go on with."""
    if prompt and isinstance(prompt[0], Mapping):
        tokens = _templated(loaded, prompt)
    else:
        tokens = list(cast("Sequence[int]", prompt))
    limit = loaded.config.get("max_position_embeddings")
    if not tokens:
        raise InputError("an empty prompt can't be answered")
    if limit is not None and len(tokens) >= limit:
        raise PromptTooLongError(loaded.source.name, len(tokens), limit)
    return tokens


def _templated(loaded: LoadedModel, messages: Sequence[Any]) -> list[int]:
    from jinja2 import TemplateError

    if not loaded.tokenizer.has_chat_template:
        raise ModelError(
            f"{loaded.source.name} has no chat template: it is a base model, and takes no messages",
            next_step="Name an instruct or chat model.",
        )
    going_on = messages[-1]["role"] == "assistant"
    try:
        return loaded.chat.tokens(
            messages, add_generation_prompt=not going_on, continue_final_message=going_on
        )
    except (TemplateError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The chat template of {loaded.source.name} takes no such messages: {error}"
        ) from error


def within_context(loaded: LoadedModel, tokens: Sequence[int], sampling: Sampling) -> Sampling:
    """`sampling` with no more tokens than the context has room for."""
    limit = loaded.config.get("max_position_embeddings")
    room = sampling.max_tokens if limit is None else limit - len(tokens)
    return replace(sampling, max_tokens=min(sampling.max_tokens, room))


def generate_each(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling],
    *,
    max_batch: int,
) -> Generator[tuple[int, Generated]]:
    """Answers with the indices of their prompts, as they come. Long prompts go first, so that
    those that are processed together are of a length."""
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    tokens = [prompt_tokens(loaded, prompt) for prompt in prompts]
    batch = SequenceBatch(loaded, max_batch=max_batch)
    try:
        for i in sorted(range(len(tokens)), key=lambda i: -len(tokens[i])):
            batch.add(i, tokens[i], within_context(loaded, tokens[i], samplings[i]))
        while len(batch):
            for step in batch.step():
                if step.finished is not None:
                    yield step.request, step.finished
    finally:
        batch.close()


def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling],
    *,
    max_batch: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """The answers in order of their prompts. `on_progress(done, total)` is called at each."""
    answers: dict[int, Generated] = {}
    for i, generated in generate_each(loaded, prompts, sampling, max_batch=max_batch):
        answers[i] = generated
        if on_progress is not None:
            on_progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]
