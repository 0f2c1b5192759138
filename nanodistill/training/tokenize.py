"""The rows of a split as tokens: what the child trains on, and all it knows of them.

One flat array of tokens with offsets, and for each row where its prompt ends.
The loss is on the tokens after that, the targets.

Rows become tokens, so that training sees what inference will send.

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

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanodistill.errors import ModelError
from nanodistill.models import loading
from nanodistill.models.blas import load_fast_blas
from nanodistill.models.chat import Chat
from nanodistill.models.chat_templates import moves_system
from nanodistill.run_dir import write_atomic

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Example:
    """A row: all its tokens, and how many of them are prompt."""

    tokens: Sequence[int]
    prompt: int

    @property
    def targets(self) -> int:
        return len(self.tokens) - self.prompt

    def unmasked(self) -> Example:
        """The same row with every token a target, but for the first, which nothing predicts."""
        return Example(self.tokens, 1)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows as tokens: row i is tokens[offsets[i]:offsets[i + 1]], its prompt prompts[i] long."""

    tokens: Ints
    offsets: NDArray[np.int64]
    prompts: Ints

    @classmethod
    def of(cls, examples: Sequence[Example]) -> TokenRows:
        lengths = [len(example.tokens) for example in examples]
        flat = [np.asarray(example.tokens, dtype=np.int32) for example in examples]
        return cls(
            np.concatenate(flat) if flat else np.zeros(0, np.int32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.asarray([example.prompt for example in examples], dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, row: int) -> Ints:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def after(self, prefix: int) -> TokenRows:
        """The same rows without their first `prefix` tokens, all of them prompt."""
        if not prefix:
            return self
        parts = [self[row][prefix:] for row in range(len(self))]
        lengths = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        flat = np.concatenate(parts) if parts else self.tokens
        return TokenRows(flat, lengths.astype(np.int64), self.prompts - np.int32(prefix))

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Target tokens of each row."""
        return self.lengths - self.prompts

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"nanodistill.tokens.v1\0")
        for array in (self.tokens, self.offsets, self.prompts):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def shared_tokens(splits: Sequence[TokenRows]) -> int:
    """How many tokens all rows begin with, leaving each row one of its prompt at least."""
    rows = [split[row] for split in splits for row in range(len(split))]
    most = min((int(split.prompts.min()) - 1 for split in splits if len(split)), default=0)
    first = rows[0][:most] if rows else np.zeros(0, np.int32)
    for row in rows:
        differing = np.flatnonzero(row[: len(first)] != first)
        if len(differing):
            first = first[: differing[0]]
    return len(first)


def save_tokens(path: Path, splits: Mapping[str, TokenRows]) -> None:
    """Write the splits to one file, atomically."""
    arrays = {
        f"{name}.{part}": array
        for name, rows in splits.items()
        for part, array in (
            ("tokens", rows.tokens),
            ("offsets", rows.offsets),
            ("prompts", rows.prompts),
        )
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def load_tokens(path: Path) -> dict[str, TokenRows]:
    with np.load(path) as arrays:
        names = sorted({key.split(".")[0] for key in arrays.files})
        return {
            name: TokenRows(
                arrays[f"{name}.tokens"], arrays[f"{name}.offsets"], arrays[f"{name}.prompts"]
            )
            for name in names
        }


TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class TokenizedSplit:
    """Rows as tokens, and what was met on the way.

    `forged` are the places of rows in which the user's text holds what the template writes
    where a turn begins, with an example of such a text: see `models.chat`.
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
    forged: Mapping[int, str]


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


def tokenize_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: TokenizerWrapper, train_on: TrainOn
) -> TokenizedSplit:
    """Tokens of `rows`, each with `messages` (the last one the assistant's) and `output`."""
    chat = Chat(tokenizer)
    examples: list[Example] = []
    empty = joined = unended = 0
    forged: dict[int, str] = {}
    for number, row in enumerate(rows):
        if mark := chat.forged_turn(row["messages"]):
            forged[number] = mark
        empty += not row["output"].strip()
        example, was_joined, was_unended = _tokenize_row(row, tokenizer, chat, train_on)
        examples.append(example)
        joined += was_joined
        unended += was_unended
    begins = tokenizer.bos_token_id
    double = begins is not None and any(
        list(e.tokens[:2]) == [begins, begins] for e in examples[:1]
    )
    template = tokenizer.chat_template
    moved = isinstance(template, str) and moves_system(template)
    return TokenizedSplit(tuple(examples), empty, joined, unended, double, moved, forged)


def _tokenize_row(
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
