"""Closed sets of outputs: finding one in the seeds, and reading a label out of an answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nanodistill.curation.near import words_of
from nanodistill.curation.sieve import Refused
from nanodistill.records import Seed, Trace, canonical_text

LONGEST_LABEL = 40
MOST_WORDS = 5
SEEDS_PER_LABEL = 2
EDGE = re.compile(r"^[\s\"'`*_.:([{<#-]+|[\s\"'`*_.,;:!)\]}>]+$")
LEAD = re.compile(r"^(?:the\s+)?(?:answer|output|label|category|class)(?:\s+is)?\s*:?\s+", re.I)


def find_labels(seeds: Sequence[Seed]) -> tuple[str, ...]:
    """The seeds' outputs, in order of appearance, where they are a closed set; else nothing.

    They are one where they are short and come back: at least two of them, and on
    average each in two or more seeds.
    """
    outputs = Counter(canonical_text(seed.output) for seed in seeds)
    if len(outputs) < 2 or len(outputs) * SEEDS_PER_LABEL > len(seeds):
        return ()
    return tuple(outputs) if all(map(_is_short, outputs)) else ()


def _is_short(output: str) -> bool:
    is_json = output.startswith(("{", "["))
    return len(output) <= LONGEST_LABEL and len(output.split()) <= MOST_WORDS and not is_json


def match_label(answer: str, labels: Iterable[str]) -> str | None:
    """The label that `answer` gives, whatever its case, quotes and full stop; None if none."""
    known = {canonical_text(label).casefold(): label for label in labels}
    bare = _bare(answer)
    for reading in (canonical_text(answer), bare, LEAD.sub("", bare)):
        if reading.casefold() in known:
            return known[reading.casefold()]
    same_words = [label for label in known.values() if words_of(label) == words_of(bare)]
    return same_words[0] if len(same_words) == 1 else None


def _bare(text: str) -> str:
    trimmed = EDGE.sub("", text)
    return EDGE.sub("", trimmed)


@dataclass(frozen=True)
class LabelInSet:
    """Refuses outputs outside the closed set, and writes the others as the set does.

    A seed's output stays as the user wrote it.
    """

    labels: tuple[str, ...]
    name: str = "label in set"

    def __call__(self, row: Trace) -> Trace | Refused:
        label = match_label(row.output, self.labels)
        if label is None:
            return Refused(
                "not_a_label", f"'{row.output[:80]}' is none of {', '.join(self.labels)}"
            )
        return row if row.source == "seed" else replace(row, output=label)
