"""Filters of single rows: is it a usable input, is it new, is it valid.

None of these filters knows the task; limits come from the seeds. Duplicates are judged by the input
alone, since two answers to one question are no variety either; the first in plan order stays.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.curation.minhash import NearIndex, words_of
from nanodistill.curation.response_model import Response
from nanodistill.data_files import invalid_text
from nanodistill.thinking import Format, round_trips
from nanodistill.types import Seed, Trace, canonical_text

QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "„": "“", "`": "`"}
HEADING = re.compile(
    r"\A\W*(?:(?:new|another|here is|here's|one|an?|the|next)\s+)*"
    r"(?:input|message|example|text|question|query|request|user|customer)"
    r"(?:\s+(?:message|input|example|text|one|\d+))?\s*:\**\s*",
    re.IGNORECASE,
)
TURN = re.compile(
    r"\n\s*(?:user|assistant|system|human|ai|input|output|(?:its )?answer)\s*:"
    r"|<\|[a-z_]+\|>|</s>",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"\A\W*(?:as an ai\b|(?:\w+\W+){0,8}?(?:(?:can|could)(?:'t|not| not)|(?:unable|not able) to)\W+"
    r"(?:\w+\W+)?(?:assist|help (?:you|with (?:that|this))|fulfil|comply|generate|respond))",
    re.IGNORECASE,
)
ASSISTANT = re.compile(
    r"\b(?:i'?m|i am|as) an? ai\b|\bai (?:language )?(?:model|assistant)\b"
    r"|\bhow (?:can|may) i (?:assist|help) you\b"
    r"|\b(?:i'?m|i am|we'?re|we are) here to (?:help|assist)\b"
    r"|\b(?:glad|happy) to (?:help|assist)\b"
    r"|\bsorry (?:for your loss|to hear (?:about|that))\b"
    r"|\bsorry for (?:any|the) (?:confusion|inconvenience)\b"
    r"|\bapologi[sz]e for (?:any|the) (?:confusion|inconvenience)\b"
    r"|\bfeel free to (?:ask|contact|reach)\b"
    r"|\blet me know if (?:you (?:need|have)|there is) any",
    re.IGNORECASE,
)
NAMED = r"\b(?:answer|category|label|output)\s*(?:is\s*)?:?\s*\W?{}\b"
TIMES_LONGER = 3
ALWAYS_ALLOWED_WORDS = 60
"""An input is too long at three times the longest seed, if that is more than these."""
REPEATED = 3
RUN = 4
"""A loop: a run of four words that comes three times in one input."""


@dataclass(frozen=True)
class StripWrappers:
    """Takes off quotes and headings round an input, and what follows it as another turn."""

    name: str = "tidy"

    def __call__(self, row: Trace) -> Trace | Rejected:
        text = strip_wrappers(row.input)
        if not words_of(text):
            return Rejected("empty_input", row.input[:200])
        return replace(row, input=text)


@dataclass(frozen=True)
class RefusalFilter:
    """Refuses what is the teacher declining to write, not an input."""

    name: str = "refusals"

    def __call__(self, row: Trace) -> Trace | Rejected:
        found = REFUSAL.match(row.input.replace("’", "'"))
        return Rejected("refusal", found[0]) if found else row


@dataclass(frozen=True)
class AssistantVoiceFilter:
    """Refuses what is said in an assistant's set phrases: a reply, where an input was wanted."""

    name: str = "assistant's voice"

    def __call__(self, row: Trace) -> Trace | Rejected:
        found = ASSISTANT.search(row.input.replace("’", "'"))
        return Rejected("assistant_voice", found[0]) if found else row


@dataclass(frozen=True)
class LengthFilter:
    """Refuses inputs that are far longer than any seed's."""

    most_words: int
    name: str = "length"

    @classmethod
    def of(cls, seeds: Iterable[Seed]) -> LengthFilter:
        longest = max(len(words_of(seed.input)) for seed in seeds)
        return cls(max(TIMES_LONGER * longest, ALWAYS_ALLOWED_WORDS))

    def __call__(self, row: Trace) -> Trace | Rejected:
        words = len(words_of(row.input))
        if words <= self.most_words:
            return row
        return Rejected("too_long", f"{words} words, the longest allowed is {self.most_words}")


@dataclass(frozen=True)
class RepetitionFilter:
    """Refuses inputs in which a model got stuck and said the same again and again."""

    name: str = "loops"

    def __call__(self, row: Trace) -> Trace | Rejected:
        words = words_of(row.input)
        runs = [" ".join(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
        times = Counter(runs)
        stuck = next((run for run, n in times.items() if n >= REPEATED), None)
        return Rejected("loop", f"'{stuck}' comes {times[stuck]} times") if stuck else row


@dataclass(frozen=True)
class LabelLeakFilter:
    """Refuses inputs that name their own answer as such, or repeat what was asked for."""

    labels: Sequence[str]
    orders: Sequence[str]
    name: str = "leaks"

    def __call__(self, row: Trace) -> Trace | Rejected:
        text = " ".join(words_of(row.input))
        said = next((order for order in self.orders if order in text), None)
        if said:
            return Rejected("leak", f"repeats '{said}'")
        for label in self.labels:
            if re.search(NAMED.format(re.escape(label)), row.input, re.IGNORECASE):
                return Rejected("leak", f"names its answer, '{label}'")
        return row


def strip_wrappers(text: str) -> str:
    """`text` without another turn after it, a heading before it, or quotes round it."""
    cut = TURN.search(text)
    text = (text[: cut.start()] if cut else text).strip()
    text = HEADING.sub("", text, count=1).strip()
    while len(text) > 2 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def exact_key(text: str) -> bytes:
    """Sixteen bytes by which texts are the same, whatever their case, spaces and encoding form."""
    return hashlib.blake2b(
        canonical_text(text).casefold().encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


class DuplicateFilter:
    """Refuses inputs that were seen before, and remembers the others."""

    name = "duplicates"

    def __init__(self, threshold: float) -> None:
        self._exact: dict[bytes, int] = {}
        self._near = NearIndex(threshold)
        self._ids: list[str] = []

    def __call__(self, row: Trace) -> Trace | Rejected:
        mark = exact_key(row.input)
        if mark in self._exact:
            return Rejected("duplicate", f"the same as {self._ids[self._exact[mark]]}")
        if (near := self._near.nearest(row.input)) is not None:
            number, similarity = near
            return Rejected("near_duplicate", f"{similarity:.0%} the same as {self._ids[number]}")
        self._exact[mark] = self._near.add(row.input)
        self._ids.append(row.id)
        return row


Verifier = Callable[[str, str], Any]


@dataclass(frozen=True)
class RoundTripFilter:
    """Refuses rows whose text would not read back the same in the thinking format.

    A user's own output keeps the blanks and line breaks at its ends.
    """

    form: Format
    name: str = "renderable"

    def __call__(self, row: Trace) -> Trace | Rejected:
        is_own = row.source in ("seed", "user")
        if round_trips(self.form, row.thinking, row.output, ends_count=not is_own):
            return row
        return Rejected("unrenderable", "holds marks of the thinking format, or blank ends")


@dataclass(frozen=True)
class ValidText:
    """Refuses rows that our own readers would not take back: a NUL ends a text in GGUF and C.

    Models write one where an escape went wrong, so the text around it is not to be trusted.
    """

    name: str = "text"

    def __call__(self, row: Trace) -> Trace | Rejected:
        held = {"input": row.input, "thinking": row.thinking, "output": row.output}
        for part, text in held.items():
            if text and text.strip() and (fault := invalid_text(text)):
                return Rejected("invalid_text", f"{part} {fault}")
        return row


@dataclass(frozen=True)
class ResponseModelFilter:
    """Refuses outputs that the response model does not accept."""

    response: Response
    name: str = "response model"

    def __call__(self, row: Trace) -> Trace | Rejected:
        read = self.response.read(row.output)
        if read.problem is not None:
            return Rejected("invalid_output", read.problem)
        return row if row.source == "seed" else replace(row, output=read.text)


@dataclass(frozen=True)
class VerifierFilter:
    """Refuses rows that the user's verifier does not return true for."""

    verifier: Verifier
    name: str = "verifier"

    def __call__(self, row: Trace) -> Trace | Rejected:
        try:
            verdict = self.verifier(row.input, row.output)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - the user's code; it is recorded
            return Rejected("verifier", f"raised {type(raised).__name__}: {raised}")
        if verdict is True:
            return row
        return Rejected("verifier", verdict if isinstance(verdict, str) else "returned false")


@dataclass(frozen=True)
class MinConfidence:
    """Refuses rows on whose answer too few of the samples agree."""

    least: float
    name: str = "confidence"

    def __call__(self, row: Trace) -> Trace | Rejected:
        if row.confidence is None or row.confidence >= self.least:
            return row
        return Rejected("low_confidence", f"{row.confidence:.2f} is under {self.least:g}")


@dataclass(frozen=True)
class HasThinking:
    """Refuses rows without the thinking that their format has a place for.

    `spares_seeds`: a seed that the teacher could not explain keeps its output, the user's word.
    """

    spares_seeds: bool = False

    name: str = "thinking"

    def __call__(self, row: Trace) -> Trace | Rejected:
        if row.thinking or (self.spares_seeds and row.source == "seed"):
            return row
        return Rejected("no_thinking", row.output[:200])


@dataclass(frozen=True)
class HasOutput:
    """Refuses rows without an answer."""

    name: str = "output"

    def __call__(self, row: Trace) -> Trace | Rejected:
        return row if row.output else Rejected("empty_output")
