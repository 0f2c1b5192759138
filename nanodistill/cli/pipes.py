"""Standard streams that outlive whoever reads them: `nanodistill train run.toml | head`."""

from __future__ import annotations

import io
import os
from typing import TextIO


class _Outliving(io.TextIOWrapper):
    """A stream that is silent once its reader has left. The work goes on, and ends as it would."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Let the descriptor lead nowhere, so that what is buffered can be flushed at the end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def outlives_its_reader(stream: TextIO) -> TextIO:
    """`stream`, which must not be used any more, as one that no closed pipe can break."""
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, _Outliving):
        return stream
    encoding, errors, buffered = stream.encoding, stream.errors, stream.line_buffering
    return _Outliving(stream.detach(), encoding=encoding, errors=errors, line_buffering=buffered)
