"""Whether two answers are the same, and which of several the teacher stands by.

Agreement is a share of the samples that were asked for: one that failed or said
nothing agrees with nobody. It is what `confidence` means.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.curation.near import words_of
from nanodistill.curation.response import as_json
from nanodistill.records import canonical_json, canonical_text


@dataclass(frozen=True, slots=True)
class Vote:
    """Which sample speaks for all, and what share of all samples agrees with it."""

    winner: int
    agreement: float


def same_answer(a: str, b: str) -> bool:
    return answer_key(a) == answer_key(b)


def answer_key(answer: str) -> str:
    """What an answer comes down to: JSON by value, numbers by value, texts by their words."""
    value = as_json(answer.strip())
    if isinstance(value, dict | list):
        return f"json {canonical_json(_by_value(value))}"
    text = canonical_text(answer).casefold().rstrip(".!")
    number = as_json(text.replace(",", "").lstrip("$€£"))
    if isinstance(number, int | float) and not isinstance(number, bool):
        return f"number {number:.12g}"
    words = words_of(text)
    return f"text {' '.join(words)}" if words else f"text {text}"


def choose(answers: Sequence[str], asked: int) -> Vote:
    """The sample to keep of `answers`, of `asked` samples.

    JSON objects are voted on field by field, and the sample that has most of the
    winning fields is kept; other answers are voted on whole. The first wins a tie.
    """
    fields = [as_json(answer) for answer in answers]
    if all(isinstance(value, dict) for value in fields):
        return _by_field(fields, asked)
    keys = [answer_key(answer) for answer in answers]
    leader, votes = Counter(keys).most_common(1)[0]
    return Vote(keys.index(leader), votes / asked)


def _by_field(samples: Sequence[dict[str, Any]], asked: int) -> Vote:
    names = sorted({name for sample in samples for name in sample})
    votes = {
        name: Counter(answer_key(json.dumps(sample.get(name))) for sample in samples)
        for name in names
    }

    def support(sample: dict[str, Any]) -> float:
        counts = [votes[name][answer_key(json.dumps(sample.get(name)))] for name in names]
        return sum(counts) / len(counts) if counts else float(len(samples))

    supports = [support(sample) for sample in samples]
    best = max(supports)
    return Vote(supports.index(best), best / asked)


def interval(agreed: int, asked: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical
    inference (1927).
    """
    z = 1.959963984540054
    share = agreed / asked
    middle = share + z * z / (2 * asked)
    spread = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    scale = 1 + z * z / asked
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _by_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_by_value(item) for item in value]
    return canonical_text(value).casefold() if isinstance(value, str) else value
