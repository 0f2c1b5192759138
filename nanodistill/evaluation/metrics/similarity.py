"""Text similarity: chrF by sacrebleu, which works in any language and script.

chrF is an F-score over character n-grams up to 6 with recall weighted twice
(Popović 2015, https://aclanthology.org/W15-3049), here for one row at a time
and in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from nanodistill.evaluation.metrics.metric import Pair

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF


class TextSimilarity:
    name = "text"
    measure = "chrF"

    def score(self, output: str, gold: str) -> float:
        return similarity(output, gold)

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Words of the outputs over words of the gold answers: 1 is as long as they should be."""
        read = [(output, gold) for output, gold in pairs if output is not None]
        said = sum(len(output.split()) for output, _ in read)
        wanted = sum(len(gold.split()) for _, gold in read)
        return {"length_ratio": said / wanted if wanted else None}


def similarity(output: str, gold: str) -> float:
    """chrF of `output` against `gold`, 0 to 1."""
    if output == gold:
        return 1.0
    score: float = _chrf().sentence_score(output, [gold]).score
    return min(1.0, score / 100)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
