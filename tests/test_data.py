"""The data we ship: well-formed, balanced, and a test set that the seeds do not give away."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data"
FILES = sorted(DATA.rglob("*.jsonl"))
SEEDS = DATA / "support_triage" / "seeds.jsonl"
TEST = DATA / "support_triage" / "test.jsonl"
LABELS = ("billing", "bug", "account", "shipping")


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def five_grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}


def overlap(a: str, b: str) -> float:
    """Jaccard: shared words over all words of the two."""
    left, right = set(words(a)), set(words(b))
    return len(left & right) / len(left | right)


def test_the_shipped_files_are_these() -> None:
    assert FILES == [SEEDS, TEST]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_line_is_an_input_and_an_output(path: Path) -> None:
    for row in rows(path):
        assert list(row) == ["input", "output"]
        for text in row.values():
            assert isinstance(text, str)
            assert text
            assert text == " ".join(text.split())


@pytest.mark.parametrize(("path", "per_label"), [(SEEDS, 3), (TEST, 25)])
def test_labels_are_balanced(path: Path, per_label: int) -> None:
    assert Counter(row["output"] for row in rows(path)) == dict.fromkeys(LABELS, per_label)


@pytest.mark.parametrize(("path", "fewest", "most"), [(SEEDS, 8, 40), (TEST, 4, 45)])
def test_messages_are_neither_too_short_nor_too_long(path: Path, fewest: int, most: int) -> None:
    for row in rows(path):
        assert fewest <= len(words(row["input"])) <= most, row["input"]


def test_no_two_messages_are_alike() -> None:
    messages = [row["input"] for path in (SEEDS, TEST) for row in rows(path)]
    assert len(messages) == 112
    for a, b in combinations(messages, 2):
        assert not five_grams(a) & five_grams(b), (a, b)
        assert overlap(a, b) < 0.3, (a, b)
