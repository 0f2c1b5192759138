"""Whether two answers to one input agree: as a whole, by field, or in all but the wording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanodistill.curation.labels import match_label
from nanodistill.curation.minhash import words_of
from nanodistill.curation.response_model import Response, as_json
from nanodistill.curation.voting import same_answer
from nanodistill.values import field_schema, numbers_in, value_key

Verdict = Literal["same", "reworded", "different"]

REWORDED = 0.5
"""Share of words in common (F1) from which two free texts count as one answer in other words, if
their numbers are the same. Half of the words: a title with an article or a remark more is the same
title; at 0.25 two titles that share one word of three are, at 1 no rewording is."""


@dataclass(frozen=True)
class Agreement:
    """How one answer relates to another; `fields` only for outputs with a schema."""

    whole: Verdict
    fields: Mapping[str, Verdict]


def compare_answers(
    one: str, other: str, *, labels: Sequence[str] = (), response: Response | None = None
) -> Agreement:
    """Compare two answers by label, by field, or as texts.

    Fields of enums, numbers, dates and lists have to be equal; free text may be reworded. The
    reasoning field of a response model is left out.

    Example:
        >>> compare_answers("Billing.", "billing", labels=("billing", "bug")).whole
        'same'
    """
    if labels:
        same = match_label(one, labels) == match_label(other, labels) is not None
        return Agreement("same" if same else "different", {})
    if response is not None:
        return _compare_fields(as_json(one), as_json(other), response)
    return Agreement(_compare_texts(one, other), {})


def _compare_fields(one: Any, other: Any, response: Response) -> Agreement:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return Agreement("same" if one == other else "different", {})
    schema = response.schema
    verdicts: dict[str, Verdict] = {}
    for name, field in response.fields().items():
        a, b = one.get(name), other.get(name)
        each = field_schema(schema, name, schema)
        if value_key(a, each, schema) == value_key(b, each, schema):
            verdicts[name] = "same"
        elif field.is_free_text and isinstance(a, str) and isinstance(b, str):
            verdicts[name] = _compare_texts(a, b)
        else:
            verdicts[name] = "different"
    found = set(verdicts.values())
    whole: Verdict = (
        "different" if "different" in found else "reworded" if "reworded" in found else "same"
    )
    return Agreement(whole, verdicts)


def _compare_texts(one: str, other: str) -> Verdict:
    if same_answer(one, other):
        return "same"
    numbers = [Counter(found.digits for found in numbers_in(text)) for text in (one, other)]
    is_same_in_words = numbers[0] == numbers[1] and word_overlap(one, other) >= REWORDED
    return "reworded" if is_same_in_words else "different"


def word_overlap(one: str, other: str) -> float:
    """F1 of the words that two texts have in common, 0 to 1."""
    a, b = Counter(words_of(one)), Counter(words_of(other))
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0
