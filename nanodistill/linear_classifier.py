"""A linear classifier on words: what a second of training gets out of the same rows.

tf-idf over words and parts of words, and logistic regression, by scikit-learn. It is the baseline
that a fine-tuned student has to beat, and a second reader of rows that looks for doubtful labels.

Parts of words make it a fair opponent: "refunded" and "refunding" share most of theirs, and with
three hundred rows few words come twice. On two sets of 240 support messages of a capable teacher it
had 82 and 88 of the 100 test messages right, with words and pairs of words alone 78 and 83.

Needs the extra `baseline` (`pip install 'nanodistill[baseline]'`).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDS = 5
INVERSE_REGULARIZATION = 10.0
"""scikit-learn's C. On the sets above, values from 1 to 100 were within two points of each other
(81 to 83 right, and 88 each)."""
PART_LENGTHS = (3, 5)
"""Letters of a part of a word."""


def is_installed() -> bool:
    return importlib.util.find_spec("sklearn") is not None


def train_classifier(texts: Sequence[str], labels: Sequence[str]) -> Pipeline:
    """A classifier trained on texts and their labels; deterministic.

    Args:
        labels: at least two different ones.

    Example:
        >>> model = train_classifier(["pay me", "it broke"], ["billing", "bug"])
        >>> str(model.predict(["it broke again"])[0])
        'bug'
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(sublinear_tf=True)
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=PART_LENGTHS, sublinear_tf=True)
    model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=2000)
    return make_pipeline(make_union(words, parts), model).fit(list(texts), list(labels))


def cross_probabilities(
    texts: Sequence[str], labels: Sequence[str]
) -> list[Mapping[str, float]] | None:
    """For each text the probability of each label, by a classifier trained on the other folds.

    Returns:
        None where a label has fewer than two texts, or there is only one label.
    """
    counts = Counter(labels)
    if len(counts) < 2 or min(counts.values()) < 2:
        return None
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(min(FOLDS, min(counts.values())), shuffle=True, random_state=0)
    template: Any = train_classifier(texts, labels)
    found = cross_val_predict(template, list(texts), list(labels), cv=folds, method="predict_proba")
    names = [str(name) for name in template.classes_]
    return [dict(zip(names, map(float, row), strict=True)) for row in found]
