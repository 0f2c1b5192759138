"""What gives an answer away without being the task."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from nanodistill.curation.cues import CueRow, find_cues, fisher_exact

WORDS = [
    "the",
    "of",
    "a",
    "my",
    "we",
    "it",
    "was",
    "is",
    "at",
    "to",
    "from",
    "with",
    "on",
    "for",
    "by",
    "and",
]


def rows(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts that say nothing of their labels."""
    dice = random.Random(seed)
    return [(" ".join(dice.choices(WORDS, k=12)), dice.choice("ab")) for _ in range(n)]


def cues_of(found: list[tuple[str, str]], style: list[str] | None = None) -> list[tuple[str, str]]:
    axes = [{"style": one} for one in style] if style else [{}] * len(found)
    cue_rows = [
        CueRow(text, {"": label}, axis) for (text, label), axis in zip(found, axes, strict=True)
    ]
    return [(cue.feature, cue.answer) for cue in find_cues(cue_rows)]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_found_where_there_is_nothing(seed: int) -> None:
    assert cues_of(rows(240, seed)) == []


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (lambda text: f"sorry {text}", 'begins with "sorry"'),
        (lambda text: f"{text}!", "has an exclamation mark"),
        (lambda text: f"{text} 42", "has digits"),
        (lambda text: text.replace(" ", " kindly ", 1), 'holds the word "kindly"'),
    ],
)
def test_a_habit_of_one_label_is_found(change: object, feature: str) -> None:
    changed = [
        (change(text) if label == "a" and n % 2 else text, label)  # type: ignore[operator]
        for n, (text, label) in enumerate(rows(240))
    ]
    assert (feature, "a") in cues_of(changed)


def test_an_axis_that_tells_the_answer_is_found() -> None:
    found = rows(240)
    style = ["apologetic" if label == "a" and n % 3 == 0 else "terse"
             for n, (_, label) in enumerate(found)]  # fmt: skip
    assert ('was ordered with style "apologetic"', "a") in cues_of(found, style)


def test_words_of_the_subject_are_no_cue() -> None:
    found = [(f"{text} invoice" if label == "a" else text, label) for text, label in rows(240)]
    cue_rows = [CueRow(text, {"": label}, {}) for text, label in found]
    assert find_cues(cue_rows, ["invoice"]) == []


def test_fishers_test_is_the_chance_of_as_much_or_more() -> None:
    """Against counting: 8 of 10 rows with the feature have the answer that 20 of 40 rows have."""
    dice = random.Random(1)
    answers = [1] * 20 + [0] * 20
    hits = Counter(sum(dice.sample(answers, 10)) >= 8 for _ in range(40_000))
    assert fisher_exact(8, 10, 20, 40) == pytest.approx(hits[True] / 40_000, abs=0.005)
    assert fisher_exact(0, 10, 20, 40) == pytest.approx(1.0)
