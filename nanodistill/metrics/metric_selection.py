"""Which metric a dataset calls for.

With `auto`, the first of these that holds, over the gold answers that are judged:

1. the dataset has a closed set of labels: label;
2. it has a response schema, or every gold answer is a JSON object or list: json;
3. every gold answer is a number: numeric;
4. at most `MOST_LABELS` different short gold answers, `ROWS_PER_LABEL` rows to each on average:
   label;
5. the median gold answer has at most `SHORT_WORDS` words and `SHORT_LETTERS` letters: exact;
6. otherwise: text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nanodistill.config import DeliverySettings
from nanodistill.errors import InputError
from nanodistill.metrics.field_accuracy import FieldAccuracy, is_json_object
from nanodistill.metrics.row_metrics import (
    CustomMetric,
    ExactMatch,
    LabelAccuracy,
    Metric,
    NumericMatch,
    TextSimilarity,
    is_number,
    last_number,
)
from nanodistill.values import normalized

MOST_LABELS = 20
ROWS_PER_LABEL = 3
SHORT_WORDS = 5
SHORT_LETTERS = 40


@dataclass(frozen=True)
class TaskFacts:
    """What a dataset's manifest says of its outputs. `labels` is empty where they are open."""

    labels: tuple[str, ...] | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MetricChoice:
    """A metric, and why it is the one, as the end of a sentence."""

    metric: Metric
    reason: str


def choose_metric(
    settings: DeliverySettings, task: TaskFacts, golds: Sequence[str]
) -> MetricChoice:
    """The metric that `settings` name, or that the gold answers call for.

    Raises:
        ConfigError: there is no metric by that name.
        InputError: the gold answers can't be judged by the metric that was named.
    """
    named = settings.metric
    if callable(named) or ":" in named:
        return MetricChoice(_custom(named), "named in the run file")
    if named == "auto":
        return _chosen_by_data(settings, task, golds)
    _check_golds(named, golds)
    return MetricChoice(_by_name(named, settings, task, golds), "named in the run file")


def _chosen_by_data(
    settings: DeliverySettings, task: TaskFacts, golds: Sequence[str]
) -> MetricChoice:
    name, reason = _suited(task, golds)
    return MetricChoice(_by_name(name, settings, task, golds), reason)


def _suited(task: TaskFacts, golds: Sequence[str]) -> tuple[str, str]:
    if task.labels:
        return "label", f"the dataset has {len(task.labels)} labels"
    if task.schema is not None:
        return "json", "the dataset has a response schema"
    if all(is_json_object(gold) for gold in golds):
        return "json", "every gold answer is JSON"
    if all(is_number(gold) for gold in golds):
        return "numeric", "every gold answer is a number"
    different = {normalized(gold) for gold in golds}
    if task.labels is None and _is_label_set(different, len(golds)):
        return "label", f"{len(golds)} gold answers repeat {len(different)} short texts"
    if _are_short(golds):
        return "exact", "the gold answers are short"
    return "text", "the gold answers are free text"


def _is_label_set(different: set[str], rows: int) -> bool:
    return (
        2 <= len(different) <= MOST_LABELS
        and rows >= ROWS_PER_LABEL * len(different)
        and all(_are_short([text]) for text in different)
    )


def _are_short(texts: Sequence[str]) -> bool:
    return (
        median(len(text.split()) for text in texts) <= SHORT_WORDS
        and median(len(text) for text in texts) <= SHORT_LETTERS
    )


def _by_name(
    name: str, settings: DeliverySettings, task: TaskFacts, golds: Sequence[str]
) -> Metric:
    makers: dict[str, Callable[[], Metric]] = {
        "exact": ExactMatch,
        "label": lambda: LabelAccuracy(task.labels or _distinct(golds)),
        "json": lambda: FieldAccuracy(settings.numeric_tolerance, task.schema),
        "numeric": lambda: NumericMatch(settings.numeric_tolerance),
        "text": TextSimilarity,
    }
    return makers[name]()


def _distinct(golds: Sequence[str]) -> tuple[str, ...]:
    """Each different gold answer once, in the spelling that comes first."""
    spelling: dict[str, str] = {}
    for gold in golds:
        spelling.setdefault(normalized(gold), gold)
    return tuple(sorted(spelling.values()))


def _custom(named: str | Callable[[str, str], Any]) -> CustomMetric:
    if isinstance(named, str):
        from nanodistill.plugins import load_object

        return CustomMetric(load_object(named, field="metric"), named)
    return CustomMetric(named, f"{named.__module__}:{named.__qualname__}")


def _check_golds(name: str, golds: Sequence[str]) -> None:
    fits: dict[str, Callable[[str], bool]] = {
        "json": is_json_object,
        "numeric": lambda gold: last_number(gold) is not None,
    }
    if name not in fits:
        return
    unfit = [gold for gold in golds if not fits[name](gold)]
    if unfit:
        raise InputError(
            f'metric = "{name}" can\'t judge {len(unfit)} of {len(golds)} gold answers, '
            f"such as {unfit[0][:60]!r}.",
            next_step='Set metric = "auto", or one that fits these answers.',
        )
