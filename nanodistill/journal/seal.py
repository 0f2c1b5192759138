"""The seal: how many records a journal has committed, in a small file of its own."""

from __future__ import annotations

import os
from pathlib import Path

from nanodistill.journal.trouble import damaged, seal_of


class SealFile:
    """The seal of a journal that is being written. It stays open: a commit opens no file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(seal_of(path), os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, counts: tuple[int, int]) -> None:
        """One small write in place: a process that dies leaves the old seal or the new one.

        It is not synced, so that it costs nothing: after a power cut it may be older
        than the journal, which claims too little and never too much.
        """
        os.pwrite(self._descriptor, b"%020d %020d\n" % counts, 0)

    def close(self) -> None:
        os.close(self._descriptor)


def read_seal(path: Path) -> tuple[int, int]:
    """How many responses and attempts were committed, as far as the seal says: none without one.

    Raises:
        DamagedFile: it is no seal.
    """
    try:
        text = seal_of(path).read_bytes()
    except FileNotFoundError:
        return 0, 0
    try:
        responses, attempts = map(int, text.split())
    except ValueError as torn:
        raise damaged(path, f"its seal, {seal_of(path).name}, is torn") from torn
    return responses, attempts
