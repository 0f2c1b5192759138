"""Tell thinking and content apart while text arrives.

A format whose delimiters appear in the text as they are (`<thinking>`, `**Output:**`)
is split piece by piece; any other (JSON, which escapes its strings, or paragraphs, of
which only the last is the output) once the text is complete. White space around
thinking and content is dropped, as evaluation drops it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from nanodistill.thinking import Format, has_thinking

Kind = Literal["thinking", "content"]

# Reasoning models write these tags whatever the format.
THINK_TAGS = ("<think>", "</think>")
# Texts with a quote, a backslash and a newline: a format that escapes or changes any of them does
# not write thinking and output as they are.
PROBE_THINKING, PROBE_OUTPUT = '@thought "\\\n@', '@output "\\\n@'


@dataclass(frozen=True)
class Piece:
    kind: Kind
    text: str


@dataclass(frozen=True)
class Delimiters:
    """What a format writes before thinking, between it and the output, and after."""

    before: str
    between: str
    after: str

    @property
    def can_stream(self) -> bool:
        """Whether the delimiters alone show where thinking begins and ends."""
        return bool(self.before.strip() and self.between.strip()) and not self.after.strip()


def delimiters_of(thinking_format: Format) -> Delimiters | None:
    """A format's delimiters; None if it has no thinking or changes the texts that it writes."""
    if not has_thinking(thinking_format):
        return None
    text = thinking_format.format(PROBE_THINKING, PROBE_OUTPUT)
    thinking, output = re.escape(PROBE_THINKING), re.escape(PROBE_OUTPUT)
    match = re.fullmatch(f"(.*){thinking}(.*){output}(.*)", text, re.DOTALL)
    return Delimiters(*match.groups()) if match else None


class ReasoningParser(Protocol):
    def add(self, text: str) -> list[Piece]:
        """The pieces that more text completes."""
        ...

    def end(self) -> list[Piece]:
        """The rest, when no text will follow."""
        ...


def parser_for(thinking_format: Format) -> ReasoningParser:
    """A parser for one text."""
    delimiters = delimiters_of(thinking_format)
    if not has_thinking(thinking_format):
        return StreamingReasoningParser([THINK_TAGS])
    if delimiters is not None and delimiters.can_stream:
        own = (delimiters.before.strip(), delimiters.between.strip())
        return StreamingReasoningParser([THINK_TAGS, own])
    return BufferedReasoningParser(thinking_format)


class BufferedReasoningParser:
    """Splits a complete text by its format's own `parse`."""

    def __init__(self, thinking_format: Format) -> None:
        self._format = thinking_format
        self._text = ""

    def add(self, text: str) -> list[Piece]:
        self._text += text
        return []

    def end(self) -> list[Piece]:
        thinking, output = self._format.parse(self._text)
        pieces = [Piece("thinking", thinking or ""), Piece("content", output)]
        return [piece for piece in pieces if piece.text]


class StreamingReasoningParser:
    """Splits by pairs of tags. Thinking is between them; each pair is used at most once."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._end_tag: str | None = None  # of the thinking that is being read
        self._in_content = False  # content has begun, and no more tags count
        self._buffer = ""
        self._strippers = {"thinking": _Stripper(), "content": _Stripper()}

    def add(self, text: str) -> list[Piece]:
        self._buffer += text
        return self._take(last=False)

    def end(self) -> list[Piece]:
        return self._take(last=True)

    def _take(self, *, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        more = True
        while more and (self._buffer or last):
            if self._end_tag is not None:
                more = self._take_thinking(pieces, self._end_tag, last)
            elif self._in_content:
                self._emit(pieces, "content", self._buffer)
                self._buffer, more = "", False
            else:
                more = self._take_opening(last)
        return [piece for piece in pieces if piece.text]

    def _take_opening(self, last: bool) -> bool:
        """Decide what the text begins with. False: not enough of it yet."""
        text = self._buffer.lstrip()
        for start_tag, end_tag in self._pairs:
            if text.startswith(start_tag):
                self._end_tag, self._buffer = end_tag, text[len(start_tag) :]
                self._pairs = [pair for pair in self._pairs if pair[0] != start_tag]
                return True
        undecided = not text or any(start_tag.startswith(text) for start_tag, _ in self._pairs)
        self._in_content = last or not undecided
        return bool(self._in_content and text)

    def _take_thinking(self, pieces: list[Piece], end_tag: str, last: bool) -> bool:
        thinking, tag, rest = self._buffer.partition(end_tag)
        if tag:
            self._emit(pieces, "thinking", thinking)
            self._end_tag, self._buffer = None, rest
            return True
        # What may be the beginning of the tag waits for more text.
        cut = len(thinking) if last else len(thinking) - _overlap(thinking, end_tag)
        self._emit(pieces, "thinking", thinking[:cut])
        self._buffer = thinking[cut:]
        return False

    def _emit(self, pieces: list[Piece], kind: Kind, text: str) -> None:
        pieces.append(Piece(kind, self._strippers[kind].add(text)))


class _Stripper:
    """Strips white space from both ends of a text that arrives in pieces."""

    def __init__(self) -> None:
        self._begun = False
        self._space = ""

    def add(self, text: str) -> str:
        text = self._space + text if self._begun else text.lstrip()
        stripped = text.rstrip()
        self._begun = self._begun or bool(stripped)
        self._space = text[len(stripped) :] if self._begun else ""
        return stripped


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` begin `tag`."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
