"""The rows of a split as tokens: what the child trains on, and all it knows of them.

One flat array of tokens with offsets, and for each row where its prompt ends.
The loss is on the tokens after that, the targets.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanodistill.runfolder import write_atomic

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
