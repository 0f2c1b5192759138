"""Rows become tokens, so that training sees what inference will send.

A prompt is what the template makes of system and user with its generation
prompt, to the token; after it come the answer's tokens up to the one that ends
an answer. Usually the template's text of the whole conversation begins with the
prompt and that text is taken. Where it does not (a template that rewrites
earlier turns, or tokens that merge across the border), the answer is put behind
the prompt by itself, and the row counted as `joined`.

What a template writes after the end-of-answer token, often a line break, is no
target: generation never gets that far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanodistill.errors import ModelError
from nanodistill.models import loading
from nanodistill.models.blas import load_fast_blas
from nanodistill.models.chat import Chat
from nanodistill.models.templates import moves_system
from nanodistill.training.tokens import Example

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class Encoded:
    """Rows as tokens, and what was met on the way.

    `empty` rows have an output of nothing or blanks; `joined` ones got their answer
    put behind the prompt; `unended` ones got an end-of-text token that the
    template does not write. `double_bos` says that the template begins with two
    beginning-of-text tokens, `moves_system` that it has no place for a system message,
    which stands before the first user turn.
    """

    examples: tuple[Example, ...]
    empty: int
    joined: int
    unended: int
    double_bos: bool
    moves_system: bool


def load_tokenizer(folder: Path, options: Mapping[str, Any]) -> TokenizerWrapper:
    """The tokenizer in a model's folder, as mlx_lm loads it for generation."""
    load_fast_blas()
    from mlx_lm.utils import load_config

    try:
        config = load_config(folder)
    except (ValueError, OSError) as error:
        raise ModelError(f"The settings in {folder} can't be read: {error}") from error
    tokenizer = loading.load_tokenizer(folder, config, options)
    if not tokenizer.has_chat_template:
        raise ModelError(
            f"The tokenizer in {folder} has no chat template, so no prompt can be made for it.",
            next_step="Choose the instruction-tuned version of the model as the student.",
        )
    return tokenizer


def encode(
    rows: Iterable[Mapping[str, Any]], tokenizer: TokenizerWrapper, train_on: TrainOn
) -> Encoded:
    """Tokens of `rows`, each with `messages` (the last one the assistant's) and `output`."""
    chat = Chat(tokenizer)
    examples: list[Example] = []
    empty = joined = unended = 0
    for row in rows:
        empty += not row["output"].strip()
        example, was_joined, was_unended = _encode_row(row, tokenizer, chat, train_on)
        examples.append(example)
        joined += was_joined
        unended += was_unended
    begins = tokenizer.bos_token_id
    double = begins is not None and any(
        list(e.tokens[:2]) == [begins, begins] for e in examples[:1]
    )
    template = tokenizer.chat_template
    moved = isinstance(template, str) and moves_system(template)
    return Encoded(tuple(examples), empty, joined, unended, double, moved)


def _encode_row(
    row: Mapping[str, Any], tokenizer: TokenizerWrapper, chat: Chat, train_on: TrainOn
) -> tuple[Example, bool, bool]:
    *asked, answered = row["messages"]
    answer = answered["content"] if train_on == "cot" else row["output"]
    prompt = _templated(chat, asked, add_generation_prompt=True)
    whole = _templated(chat, [*asked, {"role": "assistant", "content": answer}])
    joined = whole[: len(prompt)] != prompt or len(whole) == len(prompt)
    targets = chat.answer_tokens(answer) if joined else whole[len(prompt) :]
    ended = _up_to_end(targets, tokenizer.eos_token_ids)
    unended = ended is None
    tokens = [*prompt, *(targets if ended is None else ended)]
    if unended:
        tokens.append(tokenizer.eos_token_id)
    return Example(tokens, len(prompt)), joined, unended and not joined


def _up_to_end(targets: Sequence[int], ends: Iterable[int]) -> Sequence[int] | None:
    """`targets` up to the last token that ends an answer; None if there is none."""
    ending = set(ends)
    for last in range(len(targets) - 1, -1, -1):
        if targets[last] in ending:
            return targets[: last + 1]
    return None


def _templated(chat: Chat, messages: Sequence[Mapping[str, str]], **options: bool) -> list[int]:
    from jinja2 import TemplateError

    try:
        return chat.tokens(messages, **options)
    except (TemplateError, TypeError, KeyError, ValueError) as refused:
        raise ModelError(
            f"The student's chat template refuses the conversation: {refused}",
            next_step="Mend the template, or choose another student.",
        ) from refused
