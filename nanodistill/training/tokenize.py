"""Rows become tokens, exactly as inference will send them.

A prompt is what the chat template makes of system and user turns with its generation
prompt, to the token. The targets, which the loss is on, are the answer's tokens up
to and including the one that ends it. Usually the template's text of the whole
conversation starts with the prompt, and the rest of it is the answer. Where it does
not (the template rewrites earlier turns, or tokens merge across the border), the
answer is tokenized by itself and counted as `prompt_reencoded`.

What a template writes after the end token, often a line break, is not a target:
generation never gets that far.
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
from nanodistill.models.chat_templates import Chat, moves_system
from nanodistill.run_dir import write_atomic

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

Ints = NDArray[np.int32]
TrainOn = Literal["cot", "answer"]


@dataclass(frozen=True)
class Example:
    """One row: its tokens, the first `prompt` of which are the prompt."""

    tokens: Sequence[int] | Ints
    prompt: int

    @property
    def targets(self) -> int:
        return len(self.tokens) - self.prompt

    def unmasked(self) -> Example:
        """The same row with every token a target except the first, which nothing predicts."""
        return Example(self.tokens, 1)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Tokenized rows in flat arrays.

    Attributes:
        tokens: int32 (total tokens,).
        offsets: int64 (rows + 1,); row i is `tokens[offsets[i]:offsets[i + 1]]`.
        prompts: int32 (rows,); tokens of each row's prompt.
    """

    tokens: Ints
    offsets: NDArray[np.int64]
    prompts: Ints

    @classmethod
    def from_examples(cls, examples: Sequence[Example]) -> TokenRows:
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

    def without_prefix(self, prefix: int) -> TokenRows:
        """The same rows without their first `prefix` tokens, which all belong to prompts."""
        if not prefix:
            return self
        return TokenRows.from_examples(
            [Example(self[n][prefix:], int(self.prompts[n]) - prefix) for n in range(len(self))]
        )

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
    """How many first tokens all rows share, leaving each at least one of its prompt."""
    rows = [split[row] for split in splits for row in range(len(split))]
    most = min((int(split.prompts.min()) - 1 for split in splits if len(split)), default=0)
    first = rows[0][:most] if rows else np.zeros(0, np.int32)
    for row in rows:
        differing = np.flatnonzero(row[: len(first)] != first)
        if len(differing):
            first = first[: differing[0]]
    return len(first)


def save_tokens(path: Path, splits: Mapping[str, TokenRows]) -> None:
    """Write the splits to one npz file, atomically."""
    arrays = {
        f"{name}.{part}": array
        for name, rows in splits.items()
        for part, array in vars(rows).items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_tokens(path: Path) -> dict[str, TokenRows]:
    """Read what `save_tokens` wrote."""
    with np.load(path) as arrays:
        names = sorted({key.split(".")[0] for key in arrays.files})
        return {
            name: TokenRows(
                arrays[f"{name}.tokens"], arrays[f"{name}.offsets"], arrays[f"{name}.prompts"]
            )
            for name in names
        }


@dataclass(frozen=True)
class TokenizedSplit:
    """Tokenized rows, and what the preflight reports about them.

    Attributes:
        empty: rows with a blank output.
        prompt_reencoded: rows whose answer was tokenized apart from the conversation.
        eos_added: rows that got an end token because the template writes none.
        double_bos: whether prompts start with two beginning-of-text tokens.
        moves_system: whether the system message is prepended to the first user turn.
        forged: rows, by their place, whose user text holds what the template writes where a turn
            begins, with that text; see `Chat.forged_turn`.
    """

    examples: tuple[Example, ...]
    empty: int
    prompt_reencoded: int
    eos_added: int
    double_bos: bool
    moves_system: bool
    forged: Mapping[int, str]


def load_tokenizer(folder: Path, options: Mapping[str, Any]) -> TokenizerWrapper:
    """Load the tokenizer in a model's folder as mlx_lm does for generation.

    Args:
        options: `tokenizer_kwargs`.

    Raises:
        ModelError: it can't be loaded, or has no chat template.
    """
    load_fast_blas()
    from mlx_lm.utils import load_config

    try:
        config = load_config(folder)
    except (ValueError, OSError) as error:
        raise ModelError(f"The config in {folder} can't be read: {error}") from error
    tokenizer = loading.load_tokenizer(folder, config, options)
    if not tokenizer.has_chat_template:
        raise ModelError(
            f"The tokenizer in {folder} has no chat template.",
            next_step="Choose the instruction-tuned version of the model as the student.",
        )
    return tokenizer


def tokenize_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: TokenizerWrapper, train_on: TrainOn
) -> TokenizedSplit:
    """Tokenize rows for training.

    Args:
        rows: dataset rows, with `messages` (the last is the assistant's) and `output`.
        train_on: "cot" for the whole answer, "answer" for the output without its thinking.

    Raises:
        ModelError: the chat template rejects a conversation.
    """
    chat = Chat(tokenizer)
    examples: list[Example] = []
    empty = prompt_reencoded = eos_added = 0
    forged: dict[int, str] = {}
    for number, row in enumerate(rows):
        if mark := chat.forged_turn(row["messages"]):
            forged[number] = mark
        *prompt_messages, last = row["messages"]
        answer = last["content"] if train_on == "cot" else row["output"]
        prompt = _apply_template(chat, prompt_messages, add_generation_prompt=True)
        whole = _apply_template(chat, [*prompt_messages, {"role": "assistant", "content": answer}])
        continues = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
        targets = whole[len(prompt) :] if continues else chat.answer_tokens(answer)
        ends = [n for n, token in enumerate(targets) if token in tokenizer.eos_token_ids]
        targets = targets[: ends[-1] + 1] if ends else [*targets, tokenizer.eos_token_id]
        examples.append(Example([*prompt, *targets], len(prompt)))
        empty += not row["output"].strip()
        prompt_reencoded += not continues
        eos_added += continues and not ends
    bos, template = tokenizer.bos_token_id, tokenizer.chat_template
    return TokenizedSplit(
        tuple(examples),
        empty,
        prompt_reencoded,
        eos_added,
        double_bos=bos is not None
        and any(list(example.tokens[:2]) == [bos, bos] for example in examples[:1]),
        moves_system=isinstance(template, str) and moves_system(template),
        forged=forged,
    )


def _apply_template(
    chat: Chat, messages: Sequence[Mapping[str, str]], **options: bool
) -> list[int]:
    from jinja2 import TemplateError

    try:
        return chat.tokens(messages, **options)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise ModelError(
            f"The student's chat template rejects the conversation: {error}",
            next_step="Fix the template, or choose another student.",
        ) from error
