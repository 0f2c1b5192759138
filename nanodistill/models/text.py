"""Tokens become text as they come, and a stop text ends it wherever tokens are cut.

A character may need several tokens, and a tokenizer may write a token one way
at the start of a text and another way inside it. So a token's text is what it
adds to the text of the tokens just before it, once that ends in a whole
character. Special tokens have no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

INCOMPLETE = "�"


class Decoder(Protocol):
    """What is asked of a tokenizer here."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str: ...


class TextOfTokens:
    """The text of a growing list of tokens, a piece at a time."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0
        self._written = 0

    def add(self, token: int) -> str:
        """What can be written now; empty while a character is not whole."""
        self._tokens.append(token)
        text = self._new()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self._context, self._written = self._written, len(self._tokens)
        return text

    def rest(self) -> str:
        """What is left when no token will follow, whole or not."""
        text = self._new()
        self._context = self._written = len(self._tokens)
        return text

    def _new(self) -> str:
        before = self._text(self._tokens[self._context : self._written])
        return self._text(self._tokens[self._context :])[len(before) :]

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


class UntilStop:
    """Lets text through up to the first stop text, keeping back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._kept = ""
        self.stopped = False

    def add(self, text: str) -> str:
        text = self._kept + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._kept = ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._kept = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was kept back, when no text will follow."""
        text, self._kept = self._kept, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
