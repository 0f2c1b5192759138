"""Baselines that keep a student honest: what the same rows give without a language model.

A linear classifier on words takes a second to train. A student that does not beat it is not worth
its size yet, whatever its lead over the untrained base.
"""

from __future__ import annotations

from nanodistill import linear_classifier
from nanodistill.dataset import DatasetVersion
from nanodistill.evaluation.eval_set import Answerer, EvalSet, ExternalAnswer
from nanodistill.stats import Paired


def linear_answerer(dataset: DatasetVersion) -> Answerer | None:
    """Answers by a linear classifier that is trained on the training rows of `dataset`.

    Returns:
        None for open outputs, for fewer than two labels, and without scikit-learn.
    """
    if not dataset.manifest.labels or not linear_classifier.is_installed():
        return None
    rows = list(dataset.rows("train"))
    if len({row["output"] for row in rows}) < 2:
        return None

    def answer(examples: EvalSet) -> list[ExternalAnswer]:
        model = linear_classifier.train_classifier(
            [row["input"] for row in rows], [row["output"] for row in rows]
        )
        predicted = model.predict([row.input for row in examples.rows])
        return [
            ExternalAnswer(row.id, str(label))
            for row, label in zip(examples.rows, predicted, strict=True)
        ]

    return answer


def linear_verdict(paired: Paired) -> str | None:
    """What to do where the student does not beat the linear classifier; None where it does."""
    if paired.is_significant and paired.diff > 0:
        return None
    how = "is no better than" if paired.diff <= 0 else "is not reliably better than"
    return (
        f"The student {how} a linear classifier on words, trained in a second on the same rows. "
        "Use the classifier, or make the student worth its size: more varied rows (augment_factor, "
        "decision_rules), more epochs, more layers (lora_layers), or a larger student."
    )
