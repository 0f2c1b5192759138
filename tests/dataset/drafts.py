"""Drafts of dataset versions for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nanodistill.dataset import VersionDraft, VersionFacts
from nanodistill.thinking import FORMATS
from nanodistill.types import Rejection, Split, Trace

Placed = tuple[Split, Trace]
INSTRUCTION = "Say whether the word is an animal or a plant."


def trace(n: int, **changes: Any) -> Trace:
    values: dict[str, Any] = {
        "input": f"word number {n}",
        "output": ("animal", "plant")[n % 2],
        "source": "synthetic",
        "thinking": f"I look at word {n}.",
        "thinking_from": "teacher",
        "seed_ids": ("seed a", "seed b"),
        "cell": f"cell {n % 3}",
        "teacher": "scripted",
        "request_keys": (f"key {n}",),
    }
    return Trace(**(values | changes))


def placed(train: int = 8, valid: int = 2, test: int = 2) -> list[Placed]:
    """Rows of the three splits; the test rows are the user's and without thinking."""
    rows: list[Placed] = [("train", trace(n)) for n in range(train)]
    rows += [("valid", trace(100 + n)) for n in range(valid)]
    own = {"source": "user", "thinking": None, "thinking_from": None, "cell": "", "seed_ids": ()}
    rows += [("test", trace(200 + n, teacher="", request_keys=(), **own)) for n in range(test)]
    return rows


def rejections(n: int = 2) -> list[Rejection]:
    return [Rejection(trace(300 + i), "duplicate", f"of word {i}") for i in range(n)]


def draft(
    rows: Iterable[Placed] | None = None,
    rejected: Iterable[Rejection] = (),
    shape: str = "xml",
    **facts: Any,
) -> VersionDraft:
    """A draft whose account adds up, with any fact replaced."""
    rows, rejected = list(placed() if rows is None else rows), list(rejected)
    kept = sum(split != "test" for split, _ in rows)
    told: dict[str, Any] = {
        "instruction": INSTRUCTION,
        "thinking_format": shape,
        "made_by": "synthesis",
        "labels": ("animal", "plant"),
        "teacher": "scripted",
        "test_source": "user",
        "requested": kept + len(rejected),
    }
    return VersionDraft(rows, rejected, FORMATS[shape], VersionFacts(**(told | facts)))
