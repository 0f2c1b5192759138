"""Which metric a dataset calls for.

With `metric = "auto"`, the first of these that holds for the gold answers:

1. the dataset has a closed set of labels: label;
2. it has a response schema, or every gold answer is a JSON object or list: json;
3. every gold answer is a number: numeric;
4. there are at most `MAX_LABELS` different short gold answers, with `ROWS_PER_LABEL` rows each
   on average: label;
5. the median gold answer has at most `SHORT_WORDS` words and `SHORT_CHARACTERS` characters: exact;
6. otherwise: text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nanodistill.config import DeliverySettings
from nanodistill.errors import InputError
from nanodistill.metrics.row_metrics import (
    CustomMetric,
    ExactMatch,
    FieldAccuracy,
    LabelAccuracy,
    Metric,
    NumericMatch,
    TextSimilarity,
    is_json_object,
    is_number,
    last_number,
)
from nanodistill.values import normalized

# Where labels end and short free answers begin is a convention, not a measurement. Too few and
# an open label set is scored as exact match, without F1 and confusion; too many and recurring
# answers, such as city names, get a confusion matrix that nobody can read. The score
# itself hardly differs between the two metrics.
MAX_LABELS = 20
ROWS_PER_LABEL = 3
# A median answer of this length can be repeated word by word ("New York City", an order number).
# Higher, sentences have to match exactly and good students score 0; lower, names earn part marks.
SHORT_WORDS = 5
SHORT_CHARACTERS = 40


@dataclass(frozen=True)
class TaskFacts:
    """What a dataset's manifest says about outputs.

    `labels` is the closed set of labels, empty if the answers are known to be open, None if
    unknown.
    """

    labels: tuple[str, ...] | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MetricChoice:
    """A metric, and why it was chosen, as the end of a sentence."""

    metric: Metric
    reason: str


def choose_metric(
    settings: DeliverySettings, task: TaskFacts, golds: Sequence[str]
) -> MetricChoice:
    """The metric that `settings` name, or the one that the gold answers call for.

    Raises:
        ConfigError: there is no such metric, or its module can't be imported.
        InputError: the named metric can't score these gold answers.
    """
    name, reason = settings.metric, "set in the run file"
    if not isinstance(name, str):
        return MetricChoice(CustomMetric(name, f"{name.__module__}:{name.__qualname__}"), reason)
    if ":" in name:
        from nanodistill.plugins import load_object

        return MetricChoice(CustomMetric(load_object(name, field="metric"), name), reason)
    if name == "auto":
        name, reason = _suited(task, golds)
    else:
        _check_golds(name, golds)
    metrics: dict[str, Callable[[], Metric]] = {
        "exact": ExactMatch,
        "label": lambda: LabelAccuracy(task.labels or _distinct(golds)),
        "json": lambda: FieldAccuracy(settings.numeric_tolerance, task.schema),
        "numeric": lambda: NumericMatch(settings.numeric_tolerance),
        "text": TextSimilarity,
    }
    return MetricChoice(metrics[name](), reason)


def _suited(task: TaskFacts, golds: Sequence[str]) -> tuple[str, str]:
    """The name of the first metric that fits, and the reason."""
    if task.labels:
        return "label", f"the dataset has {len(task.labels)} labels"
    if task.schema is not None:
        return "json", "the dataset has a response schema"
    if all(is_json_object(gold) for gold in golds):
        return "json", "every gold answer is JSON"
    if all(is_number(gold) for gold in golds):
        return "numeric", "every gold answer is a number"
    different = {normalized(gold) for gold in golds}
    are_labels = (
        task.labels is None
        and 2 <= len(different) <= MAX_LABELS
        and len(golds) >= ROWS_PER_LABEL * len(different)
        and all(_are_short([text]) for text in different)
    )
    if are_labels:
        return "label", f"{len(golds)} gold answers repeat {len(different)} short texts"
    if _are_short(golds):
        return "exact", "the gold answers are short"
    return "text", "the gold answers are free text"


def _are_short(texts: Sequence[str]) -> bool:
    return (
        median(len(text.split()) for text in texts) <= SHORT_WORDS
        and median(len(text) for text in texts) <= SHORT_CHARACTERS
    )


def _distinct(golds: Sequence[str]) -> tuple[str, ...]:
    """Each different gold answer once, in its first spelling."""
    spelling: dict[str, str] = {}
    for gold in golds:
        spelling.setdefault(normalized(gold), gold)
    return tuple(sorted(spelling.values()))


def _check_golds(name: str, golds: Sequence[str]) -> None:
    fits: dict[str, Callable[[str], bool]] = {
        "json": is_json_object,
        "numeric": lambda gold: last_number(gold) is not None,
    }
    unfit = [gold for gold in golds if name in fits and not fits[name](gold)]
    if unfit:
        raise InputError(
            f'metric = "{name}" can\'t score {len(unfit)} of {len(golds)} gold answers, '
            f"such as {unfit[0][:60]!r}.",
            next_step='Set metric = "auto", or one that fits these answers.',
        )
