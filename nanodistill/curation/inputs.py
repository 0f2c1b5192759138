"""Generated inputs by themselves: tidied of what models wrap round them, and fit to be one.

None of these steps knows the task. Limits come from the seeds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nanodistill.curation.near import words_of
from nanodistill.curation.sieve import Refused
from nanodistill.records import Seed, Trace

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
REPEATED = 3
RUN = 4


@dataclass(frozen=True)
class Tidy:
    """Takes off quotes and headings round an input, and what follows it as another turn."""

    name: str = "tidy"

    def __call__(self, row: Trace) -> Trace | Refused:
        text = tidied(row.input)
        if not words_of(text):
            return Refused("empty_input", row.input[:200])
        return replace(row, input=text)


@dataclass(frozen=True)
class NoRefusal:
    """Refuses what is the teacher declining to write, not an input."""

    name: str = "refusals"

    def __call__(self, row: Trace) -> Trace | Refused:
        found = REFUSAL.match(row.input.replace("’", "'"))
        return Refused("refusal", found[0]) if found else row


@dataclass(frozen=True)
class NoAssistant:
    """Refuses what is said in an assistant's set phrases: a reply, where an input was wanted."""

    name: str = "assistant's voice"

    def __call__(self, row: Trace) -> Trace | Refused:
        found = ASSISTANT.search(row.input.replace("’", "'"))
        return Refused("assistant_voice", found[0]) if found else row


@dataclass(frozen=True)
class Fits:
    """Refuses inputs that are far longer than any seed's."""

    most_words: int
    name: str = "length"

    @classmethod
    def of(cls, seeds: Iterable[Seed]) -> Fits:
        longest = max(len(words_of(seed.input)) for seed in seeds)
        return cls(max(TIMES_LONGER * longest, ALWAYS_ALLOWED_WORDS))

    def __call__(self, row: Trace) -> Trace | Refused:
        words = len(words_of(row.input))
        if words <= self.most_words:
            return row
        return Refused("too_long", f"{words} words, the longest allowed is {self.most_words}")


@dataclass(frozen=True)
class NoLoops:
    """Refuses inputs in which a model got stuck and said the same again and again."""

    name: str = "loops"

    def __call__(self, row: Trace) -> Trace | Refused:
        words = words_of(row.input)
        runs = [" ".join(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
        times = Counter(runs)
        stuck = next((run for run, n in times.items() if n >= REPEATED), None)
        return Refused("loop", f"'{stuck}' comes {times[stuck]} times") if stuck else row


@dataclass(frozen=True)
class NoLeaks:
    """Refuses inputs that name their own answer as such, or repeat what was asked for."""

    labels: Sequence[str]
    orders: Sequence[str]
    name: str = "leaks"

    def __call__(self, row: Trace) -> Trace | Refused:
        text = " ".join(words_of(row.input))
        said = next((order for order in self.orders if order in text), None)
        if said:
            return Refused("leak", f"repeats '{said}'")
        for label in self.labels:
            if re.search(NAMED.format(re.escape(label)), row.input, re.IGNORECASE):
                return Refused("leak", f"names its answer, '{label}'")
        return row


def tidied(text: str) -> str:
    """`text` without another turn after it, a heading before it, or quotes round it."""
    cut = TURN.search(text)
    text = (text[: cut.start()] if cut else text).strip()
    text = HEADING.sub("", text, count=1).strip()
    while len(text) > 2 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
