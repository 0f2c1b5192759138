"""Features of rows that give the answer away without the task being understood.

A student learns whatever predicts the answer. If all apologies are cancellations, it learns that
an apology is one. So the rows are searched for what should tell nothing and does: an opening, a
mark of punctuation, a length, a style, a word that is none of the subject's own.

Each feature is tested against each answer with Fisher's exact test, one-sided, at a level divided
by the number of tests (Bonferroni), and has to matter in size too.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nanodistill.curation.minhash import words_of

LEVEL = 0.01
LEAST_ROWS = 8
"""Rows that have a feature before it is looked at: fewer are an accident that more rows mend."""
LEAST_GAIN = 0.4
"""How much likelier the answer has to be with the feature than without it. With thousands of rows
a difference of a few points is significant, and no student learns to rely on it; at 0.25,
digits were called a cue for billing, whose messages name amounts."""
WORD_SHARE = 0.3
"""Share of an answer's rows that hold a word before the word is called a cue. At half of it, a
capable teacher's "login" was one for accounts, which is the subject itself."""
SHORT_WORD = 3


@dataclass(frozen=True)
class Cue:
    """A feature that predicts an answer: of `rows` with it, `share` have the answer."""

    feature: str
    answer: str
    rows: int
    share: float
    usual: float
    p: float

    def __str__(self) -> str:
        return (
            f"Of {self.rows} rows, {self.share:.0%} are {self.answer} "
            f"(of all rows: {self.usual:.0%}) where the input {self.feature}."
        )


@dataclass(frozen=True)
class CueRow:
    """An input with its answers by target (one for labels, one for each field of an output).

    `axes` are the values of the plan's axes that should tell nothing of the answer.
    """

    text: str
    answers: Mapping[str, str]
    axes: Mapping[str, str]


def find_cues(rows: Sequence[CueRow], subject_words: Iterable[str] = ()) -> list[Cue]:
    """The cues in some rows, the strongest first.

    Args:
        subject_words: words that may well tell the answer, such as those of the instruction.

    Example:
        >>> rows = [CueRow(f"sorry, {n} is off", {"": "cancelled"}, {}) for n in range(20)]
        >>> rows += [CueRow(f"meet at {n}", {"": "on"}, {}) for n in range(20)]
        >>> find_cues(rows)[0].answer
        'cancelled'
    """
    known = set(subject_words)
    features = [set(_features(row, known)) for row in rows]
    with_feature = Counter(feature for found in features for feature in found)
    tested = {feature for feature, n in with_feature.items() if n >= LEAST_ROWS}
    targets = sorted({target for row in rows for target in row.answers})
    cues = []
    for target in targets:
        answers = [row.answers.get(target) for row in rows]
        totals = Counter(answer for answer in answers if answer is not None)
        if len(totals) < 2:
            continue
        both: Counter[tuple[str, str]] = Counter()
        held: Counter[str] = Counter()
        for answer, found in zip(answers, features, strict=True):
            if answer is not None:
                held.update(found & tested)
                both.update((feature, answer) for feature in found & tested)
        tests = max(1, len(tested) * len(totals))
        for (feature, answer), n in both.items():
            cue = _cue(feature, answer, n, held[feature], totals, tests)
            if cue is not None:
                cues.append(cue)
    return sorted(cues, key=lambda cue: (cue.p, cue.feature, cue.answer))


def _cue(
    feature: str, answer: str, both: int, held: int, totals: Counter[str], tests: int
) -> Cue | None:
    rows = totals.total()
    share, usual = both / held, totals[answer] / rows
    without = (totals[answer] - both) / (rows - held) if rows > held else usual
    if held < LEAST_ROWS or share - without < LEAST_GAIN:
        return None
    if feature.startswith("holds the word") and both < WORD_SHARE * totals[answer]:
        return None
    p = fisher_exact(both, held, totals[answer], rows)
    return Cue(feature, answer, held, share, usual, p) if p * tests < LEVEL else None


def fisher_exact(both: int, held: int, answered: int, rows: int) -> float:
    """Chance of at least `both` rows with feature and answer, if the two were independent.

    Source: R. A. Fisher, On the interpretation of χ² from contingency tables (1922).
    """
    most = min(held, answered)
    whole = _log_choose(rows, held)
    return math.fsum(
        math.exp(_log_choose(answered, k) + _log_choose(rows - answered, held - k) - whole)
        for k in range(both, most + 1)
        if held - k <= rows - answered
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


MARKS = {
    "?": "has a question mark",
    "!": "has an exclamation mark",
    "…": "has an ellipsis",
    "...": "has an ellipsis",
    "\n": "has several lines",
    '"': "has quotation marks",
    "(": "has brackets",
    ";": "has a semicolon",
    " - ": "has a dash",
    " – ": "has a dash",
    "—": "has a dash",
}


def _features(row: CueRow, known: set[str]) -> Iterator[str]:
    text, words = row.text.strip(), words_of(row.text)
    for mark, says in MARKS.items():
        if mark in text:
            yield says
    if re.search(r"\d", text):
        yield "has digits"
    letters = re.sub(r"[^\w]|\d", "", text)
    if letters and letters == letters.lower() != letters.upper():
        yield "is all in lower case"
    if re.search(r"\b[A-Z]{4,}\b", text):
        yield "has words in capitals"
    if words and words[0] not in known:
        yield f'begins with "{words[0]}"'
    if len(words) > 1 and not known.issuperset(words[:2]):
        yield f'begins with "{words[0]} {words[1]}"'
    for word in set(words):
        if word not in known and len(word) > SHORT_WORD and not word.isdecimal():
            yield f'holds the word "{word}"'
    for axis, value in row.axes.items():
        yield f'was ordered with {axis} "{value}"'
