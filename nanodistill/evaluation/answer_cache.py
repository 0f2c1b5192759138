"""Every answer that a model gave, kept so that none is generated twice.

One line of JSON for each in `evaluation/answers.jsonl`, under the hash of what
decides it: weights, adapter, messages, shots, length limit (decoding is always
greedy). An answer is on disk before it counts, so an evaluation that was
killed goes on where it was, the base is asked once for all training runs, and
the same evaluation again loads no model. A torn last line is what a crash
leaves of an answer that never counted, and is dropped; anything else that is no
answer means that the file was damaged, and is an error.

Not promised: the same bits as one-by-one generation. Which prompts share a
batch changes the last bits of the logits, for every model alike.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nanodistill.errors import CorruptFileError, DiskFullError
from nanodistill.evaluation.worker import GeneratedAnswer


class AnswerCache(Mapping[str, GeneratedAnswer]):
    """Answers by key. Adding needs the file open: `with answers.writing():`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_key: dict[str, GeneratedAnswer] = {}
        self._file: BinaryIO | None = None
        if path.exists():
            self._read()

    def __getitem__(self, key: str) -> GeneratedAnswer:
        return self._by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open the file for `add`, cutting off a torn last line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as self._file:
            self._file.truncate(_whole_lines(self.path.read_bytes()))
            try:
                yield
            finally:
                self._file = None

    def add(self, answer: GeneratedAnswer) -> None:
        """Keep an answer: on disk when this returns.

        Raises:
            DiskFullError: there is no room for it.
        """
        if self._file is None:
            raise ValueError("answers are added inside `with answers.writing():`")
        try:
            self._file.write(json.dumps(answer.to_json()).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as failed:
            if failed.errno == errno.ENOSPC:
                raise DiskFullError(
                    f"no room left on the disk for {self.path}.",
                    next_step="Make room and run the command again; the answers so far are kept.",
                ) from failed
            raise
        self._by_key[answer.key] = answer

    def _read(self) -> None:
        content = self.path.read_bytes()
        for number, line in enumerate(content[: _whole_lines(content)].splitlines(), start=1):
            try:
                answer = GeneratedAnswer(**json.loads(line))
            except (ValueError, TypeError) as damaged:
                raise CorruptFileError(
                    f"{self.path}:{number} is no answer of an evaluation.",
                    next_step="Delete the file; what it held is generated again.",
                ) from damaged
            self._by_key[answer.key] = answer


def _whole_lines(content: bytes) -> int:
    """Length of `content` up to its last line end."""
    return content.rfind(b"\n") + 1
