"""Thinking and content told apart while a text comes.

A format that writes its marks as they are (`<thinking>`, `**Output:**`) is split
as it comes, piece by piece; one that doesn't (JSON, whose strings are escaped, or
paragraphs, of which only the last is the output) when the text has ended. White
space at the ends of both parts is left out, as evaluation leaves it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from nanodistill.thinking import Format, has_thinking

Kind = Literal["thinking", "content"]

OWN = ("<think>", "</think>")
"""The marks that reasoning models bring along, whatever the format."""
THOUGHT, OUTPUT = '@thought "\\\n@', '@output "\\\n@'


@dataclass(frozen=True)
class Piece:
    kind: Kind
    text: str


@dataclass(frozen=True)
class Marks:
    """What a format writes before thinking, between it and the output, and after."""

    before: str
    between: str
    after: str

    @property
    def can_be_streamed(self) -> bool:
        """Whether the marks show by themselves where thinking begins and ends."""
        return bool(self.before.strip() and self.between.strip()) and not self.after.strip()


def marks_of(form: Format) -> Marks | None:
    """The marks of a format, None if it has no thinking or changes the texts it writes."""
    if not has_thinking(form):
        return None
    text = form.format(THOUGHT, OUTPUT)
    found = re.fullmatch(f"(.*){re.escape(THOUGHT)}(.*){re.escape(OUTPUT)}(.*)", text, re.DOTALL)
    return Marks(*found.groups()) if found else None


class StreamingParser(Protocol):
    def add(self, text: str) -> list[Piece]:
        """The pieces that more text brings."""
        ...

    def end(self) -> list[Piece]:
        """The rest, when no text will follow."""
        ...


def parser_for(form: Format) -> StreamingParser:
    """A splitter for one text."""
    marks = marks_of(form)
    if not has_thinking(form):
        return StreamingReasoningParser([OWN])
    if marks is not None and marks.can_be_streamed:
        return StreamingReasoningParser([OWN, (marks.before.strip(), marks.between.strip())])
    return BufferedReasoningParser(form)


class BufferedReasoningParser:
    """Splits a whole text by its format's own `parse`."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._text = ""

    def add(self, text: str) -> list[Piece]:
        self._text += text
        return []

    def end(self) -> list[Piece]:
        thinking, output = self._form.parse(self._text)
        found: list[Piece] = [Piece("thinking", thinking)] if thinking else []
        return [*found, Piece("content", output)] if output else found


class StreamingReasoningParser:
    """Splits by pairs of marks: thinking stands between them, one after the other."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._ending: str | None = None  # the mark that ends the thinking we are in
        self._begun = False  # content has begun: no more marks
        self._held = ""
        self._space = {"thinking": _Trim(), "content": _Trim()}

    def add(self, text: str) -> list[Piece]:
        self._held += text
        return [piece for piece in self._pieces(last=False) if piece.text]

    def end(self) -> list[Piece]:
        return [piece for piece in self._pieces(last=True) if piece.text]

    def _pieces(self, *, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        moved = True
        while moved and (self._held or last):
            if self._ending is not None:
                moved = self._think(pieces, last)
            elif self._begun:
                moved = self._give(pieces, "content", self._held)
            else:
                moved = self._begin(last)
        return pieces

    def _begin(self, last: bool) -> bool:
        """Find out what the text begins with. False: more of it is needed."""
        text = self._held.lstrip()
        for opening, ending in self._pairs:
            if text.startswith(opening):
                self._ending, self._held = ending, text[len(opening) :]
                self._pairs = [pair for pair in self._pairs if pair[0] != opening]
                return True
        waiting = not text or any(opening.startswith(text) for opening, _ in self._pairs)
        self._begun = last or not waiting
        return bool(self._begun and text)

    def _think(self, pieces: list[Piece], last: bool) -> bool:
        ending = self._ending or ""
        before, found, after = self._held.partition(ending)
        if found:
            self._give(pieces, "thinking", before)
            self._ending, self._held = None, after
            return True
        keep = 0 if last else _overlap(self._held, ending)
        cut = len(self._held) - keep
        kept = self._held[cut:]
        self._give(pieces, "thinking", self._held[:cut])
        self._held = kept
        return False

    def _give(self, pieces: list[Piece], kind: Kind, text: str) -> bool:
        pieces.append(Piece(kind, self._space[kind].add(text)))
        self._held = ""
        return False


class _Trim:
    """Text without white space at its ends, as it comes."""

    def __init__(self) -> None:
        self._begun = False
        self._space = ""

    def add(self, text: str) -> str:
        text = self._space + text if self._begun else text.lstrip()
        shown = text.rstrip()
        self._begun = self._begun or bool(shown)
        self._space = text[len(shown) :] if self._begun else ""
        return shown


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` begin `mark`."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
