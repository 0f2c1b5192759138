"""Checks of one row by itself: can it be written, is it valid, does it please the user's code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nanodistill.curation.response import Response
from nanodistill.curation.sieve import Refused
from nanodistill.records import Trace
from nanodistill.rowfiles import text_fault
from nanodistill.thinking import Format, survives

Verifier = Callable[[str, str], Any]


@dataclass(frozen=True)
class Renderable:
    """Refuses rows whose text would not read back the same in the thinking format.

    A user's own output keeps the blanks and line breaks at its ends: formats read without them,
    and so does the evaluation.
    """

    form: Format
    name: str = "renderable"

    def __call__(self, row: Trace) -> Trace | Refused:
        thinking, output = row.thinking, row.output
        if row.source in ("seed", "user"):
            thinking, output = thinking and thinking.strip(), output.strip()
        if survives(self.form, thinking, output):
            return row
        return Refused("unrenderable", "holds marks of the thinking format, or blank ends")


@dataclass(frozen=True)
class ValidText:
    """Refuses rows that our own readers would not take back: a NUL ends a text in GGUF and C.

    Models write one where an escape went wrong, so the text around it is not to be trusted.
    """

    name: str = "text"

    def __call__(self, row: Trace) -> Trace | Refused:
        held = {"input": row.input, "thinking": row.thinking, "output": row.output}
        for part, text in held.items():
            if text and text.strip() and (fault := text_fault(text)):
                return Refused("invalid_text", f"{part} {fault}")
        return row


@dataclass(frozen=True)
class ValidResponse:
    """Refuses outputs that the response model does not accept."""

    response: Response
    name: str = "response model"

    def __call__(self, row: Trace) -> Trace | Refused:
        read = self.response.read(row.output)
        if read.problem is not None:
            return Refused("invalid_output", read.problem)
        return row if row.source == "seed" else replace(row, output=read.text)


@dataclass(frozen=True)
class Verified:
    """Refuses rows that the user's verifier does not return true for."""

    verifier: Verifier
    name: str = "verifier"

    def __call__(self, row: Trace) -> Trace | Refused:
        try:
            verdict = self.verifier(row.input, row.output)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - the user's code; it is recorded
            return Refused("verifier", f"raised {type(raised).__name__}: {raised}")
        if verdict is True:
            return row
        return Refused("verifier", verdict if isinstance(verdict, str) else "returned false")


@dataclass(frozen=True)
class Confident:
    """Refuses rows on whose answer too few of the samples agree."""

    least: float
    name: str = "confidence"

    def __call__(self, row: Trace) -> Trace | Refused:
        if row.confidence is None or row.confidence >= self.least:
            return row
        return Refused("low_confidence", f"{row.confidence:.2f} is under {self.least:g}")


@dataclass(frozen=True)
class HasThinking:
    """Refuses rows without the thinking that their format has a place for.

    `spares_seeds`: a seed that the teacher could not explain keeps its output, the user's word.
    """

    spares_seeds: bool = False

    name: str = "thinking"

    def __call__(self, row: Trace) -> Trace | Refused:
        if row.thinking or (self.spares_seeds and row.source == "seed"):
            return row
        return Refused("no_thinking", row.output[:200])


@dataclass(frozen=True)
class HasOutput:
    """Refuses rows without an answer."""

    name: str = "output"

    def __call__(self, row: Trace) -> Trace | Refused:
        return row if row.output else Refused("empty_output")
