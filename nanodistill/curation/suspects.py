"""Rows of a dataset version in the order of how doubtful they are.

Each sign of doubt has a weight from 0 to 1; a row's doubt is the chance that at least one of its
signs is right, if they were independent: 1 - (1 - w1)(1 - w2)...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanodistill import linear_classifier
from nanodistill.curation.minhash import NearIndex
from nanodistill.dataset import DatasetVersion

CLOSE = 0.5
"""Similarity (Jaccard) from which two inputs with different answers are worth a look: at 0.8 they
would have been removed as duplicates, at 0.3 every second row has such a neighbour."""
DISAGREEMENTS = ("label_disagreement", "answer_disagreement", "judge", "low_confidence")
DROPPED_WEIGHT = 0.6
"""Of a row that a second answer or a judge contradicted: one of the two is right."""


@dataclass
class Suspect:
    """A row and what speaks against it. `split` is train, valid or rejected."""

    id: str
    split: str
    input: str
    output: str
    weights: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def doubt(self) -> float:
        """0 to 1."""
        return 1 - math.prod(1 - weight for weight in self.weights)

    def add(self, weight: float, reason: str) -> None:
        self.weights.append(min(1.0, max(0.0, weight)))
        self.reasons.append(reason)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "split": self.split,
            "input": self.input,
            "output": self.output,
            "doubt": round(self.doubt, 4),
            "reasons": self.reasons,
        }


def find_suspects(version: DatasetVersion) -> list[Suspect]:
    """The doubtful rows of a version, the most doubtful first. Blocks.

    Signs of doubt: a vote or a second answer below full agreement; a linear classifier trained on
    the other rows that says otherwise (closed labels, with scikit-learn installed); a similar
    input with another answer; and, among the rejected, an answer that a second one contradicted.
    """
    rows = [(split, row) for split in ("train", "valid") for row in version.rows(split)]
    suspects = [Suspect(row["id"], split, row["input"], row["output"]) for split, row in rows]
    for suspect, (_, row) in zip(suspects, rows, strict=True):
        if row["confidence"] is not None and row["confidence"] < 1:
            agreed = f"{row['confidence']:.0%} of the answers agree"
            suspect.add(1 - row["confidence"], agreed)
    if version.manifest.labels:
        _doubt_by_classifier(suspects)
    _doubt_by_neighbours(suspects)
    suspects += _contradicted(version.rejected())
    found = [suspect for suspect in suspects if suspect.reasons]
    return sorted(found, key=lambda suspect: (-suspect.doubt, suspect.id))


def _doubt_by_classifier(suspects: Sequence[Suspect]) -> None:
    if not linear_classifier.is_installed():
        return
    labels = [suspect.output for suspect in suspects]
    found = linear_classifier.cross_probabilities([row.input for row in suspects], labels)
    for suspect, chances in zip(suspects, found or [], strict=bool(found)):
        best = max(chances, key=lambda label: chances[label])
        margin = chances[best] - chances[suspect.output]
        if best != suspect.output:
            suspect.add(margin, f"a classifier on the other rows says {best} ({chances[best]:.0%})")


def _doubt_by_neighbours(suspects: Sequence[Suspect]) -> None:
    index = NearIndex(CLOSE)
    for number, suspect in enumerate(suspects):
        near = index.nearest(suspect.input)
        if near is not None and suspects[near[0]].output != suspect.output:
            other, similarity = suspects[near[0]], near[1]
            for one, two in ((suspect, other), (other, suspect)):
                one.add(similarity, f"like {two.id} ({similarity:.0%}), which has another answer")
        index.add(suspect.input)
        assert len(index) == number + 1


def _contradicted(rejected: Iterator[Mapping[str, Any]]) -> Iterator[Suspect]:
    for row in rejected:
        if row["reason"] in DISAGREEMENTS:
            suspect = Suspect(row["id"], "rejected", row["input"], row["output"])
            suspect.add(DROPPED_WEIGHT, f"{row['reason'].replace('_', ' ')}: {row['detail']}")
            yield suspect
