"""The metrics. Each scores one output against its gold answer, from 0 to 1.

    ExactMatch       equality after normalization
    LabelAccuracy    equality of labels; F1 per label, confusion matrix
    FieldAccuracy    JSON outputs, field by field
    NumericMatch     the last number in the output
    TextSimilarity   chrF
    CustomMetric     your own function

When two texts, labels, numbers or JSON values are equal is decided in `values`, for
votes and seed checks as well. An unreadable output, None here, scores 0.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Protocol

from nanodistill.errors import InputError
from nanodistill.plugins import user_code
from nanodistill.values import (
    MISSING,
    Number,
    arranged,
    as_value,
    is_near,
    label_set,
    normalized,
    number_of,
    numbers_in,
    same_number,
    unwrapped,
)
from nanodistill.values import is_number as is_json_number

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

# A row's output, None if it was unreadable, and its gold answer.
Pair = tuple[str | None, str]


class Metric(Protocol):
    """Scores one output at a time; `details` describes all of them together.

    `name` is the value of `metric` in a run file, `measure` what people call its mean
    ("accuracy").
    """

    @property
    def name(self) -> str: ...

    @property
    def measure(self) -> str: ...

    def score(self, output: str, gold: str) -> float:
        """0 (wrong) to 1 (right)."""

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Further figures, as JSON values."""


def score_rows(metric: Metric, pairs: Sequence[Pair]) -> list[float]:
    """One score per row, in order; 0 for an unreadable output."""
    return [0.0 if output is None else metric.score(output, gold) for output, gold in pairs]


class ExactMatch:
    name = "exact"
    measure = "exact match"

    def score(self, output: str, gold: str) -> float:
        return float(normalized(output) == normalized(gold))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:  # noqa: ARG002 - the mean is all
        return {}


OTHER_LABEL = "(other)"
UNREADABLE = "(unreadable)"


@dataclass(frozen=True)
class LabelAccuracy:
    """Accuracy over a closed set of labels, in the order in which to show them.

    An output that is not a label is wrong, in the column `(other)`; an unreadable one is in
    `(unreadable)`. Macro-F1 is the unweighted mean of F1 over the labels that occur among the
    gold answers: without a row, a label has no recall.
    """

    labels: tuple[str, ...]

    name = "label"
    measure = "accuracy"

    def score(self, output: str, gold: str) -> float:
        return float(self._label_key(output) == self._label_key(gold))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        # Gold answers outside the set get rows and columns of their own, after the labels.
        spelling: dict[str, str] = {}
        for label in (*self.labels, *(gold for _, gold in pairs)):
            spelling.setdefault(self._label_key(label), label)

        def column(output: str | None) -> str:
            if output is None:
                return UNREADABLE
            return spelling.get(self._label_key(output), OTHER_LABEL)

        cells = Counter((column(gold), column(output)) for output, gold in pairs)
        per_label = {label: _label_figures(label, cells) for label in spelling.values()}
        f1 = [figures["f1"] for figures in per_label.values() if figures["support"]]
        columns = [*spelling.values(), OTHER_LABEL, UNREADABLE]
        return {
            "macro_f1": fmean(f1) if f1 else 0.0,
            "labels": per_label,
            "confusion": {
                "columns": columns,
                "rows": {
                    gold: [cells[gold, column] for column in columns] for gold in spelling.values()
                },
            },
        }

    def _label_key(self, text: str) -> str:
        """The label that `text` is, or the normal form of a text outside the set."""
        readings = map(label_set(self.labels).find, unwrapped(text))
        found = next((label for label in readings if label is not None), None)
        return found if found is not None else f"{OTHER_LABEL} {normalized(text)}"


def _label_figures(label: str, cells: Counter[tuple[str, str]]) -> dict[str, float]:
    right = cells[label, label]
    support = sum(n for (gold, _), n in cells.items() if gold == label)
    predicted = sum(n for (_, output), n in cells.items() if output == label)
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (predicted + support) if predicted + support else 0.0,
        "support": support,
        "predicted": predicted,
    }


# Words. A longer gold text is prose, which two good answers word differently, and counts by its
# similarity; at half of that, names and addresses would earn part marks; at double, sentences
# would have to match letter by letter.
PROSE_WORDS = 8
# Schema fields in which a model reasons: no two answers word them alike, and nobody asked for
# them.
REASONING_FIELDS = (
    "reasoning", "thinking", "chain_of_thought", "thought", "thoughts", "rationale",
)  # fmt: skip
CODE_FENCE = re.compile(r"\s*```[\w-]*\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)
NOT_JSON = object()


@dataclass(frozen=True)
class FieldAccuracy:
    """Accuracy over the fields of JSON outputs.

    Output and gold answer are flattened to leaves by path. The score is the share of right
    leaves among the paths of either: a missing field is wrong, and so is an invented one. Leaves
    are equal

    - as numbers: whole ones exactly, fractions within `tolerance` (true is not a number);
    - as texts, after normalization; a gold text of over `PROSE_WORDS` words counts by its chrF;
    - otherwise, if type and value are.

    null counts as missing. A list whose schema says that it has no order is compared in the order
    of the gold answer's. Fields in `REASONING_FIELDS` are left out if the schema has them. An
    output that is not JSON scores 0; one code fence around it is removed.

    `schema` is the JSON schema of the outputs, if the dataset has one.
    """

    tolerance: float
    schema: Mapping[str, Any] | None = None

    name = "json"
    measure = "field accuracy"

    def score(self, output: str, gold: str) -> float:
        return fmean(self._scores_by_path(output, gold).values())

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        fields: defaultdict[str, list[float]] = defaultdict(list)
        whole_objects = 0
        for output, gold in pairs:
            by_path = self._scores_by_path(output, gold)
            whole_objects += all(score == 1 for score in by_path.values())
            for path, score in by_path.items():
                fields[re.sub(r"\[\d+\]", "[]", path)].append(score)
        values = [_parse_json(output) for output, _ in pairs]
        schema_valid = None
        if self.schema is not None:
            from jsonschema import validators

            checker = validators.validator_for(self.schema)(self.schema)
            schema_valid = fmean(v is not NOT_JSON and checker.is_valid(v) for v in values)
        return {
            "whole_object": whole_objects / len(pairs),
            "valid_json": fmean(value is not NOT_JSON for value in values),
            "schema_valid": schema_valid,
            "fields": {
                path: {"accuracy": fmean(scores), "n": len(scores)}
                for path, scores in sorted(fields.items())
            },
        }

    def _scores_by_path(self, output: str | None, gold: str) -> dict[str, float]:
        """The score of each path that output or gold answer has."""
        gold_value = _parse_json(gold)
        value = arranged(_parse_json(output), gold_value, self.schema)
        expected = self._leaves(gold_value)
        actual = {} if value is NOT_JSON else self._leaves(value)
        invented = {path: leaf for path, leaf in actual.items() if leaf is not None}
        return {
            path: self._leaf_score(actual.get(path), expected.get(path))
            for path in {**expected, **invented}
        }

    def _leaves(self, value: object) -> dict[str, object]:
        fields = self.schema["properties"] if self.schema and "properties" in self.schema else {}
        ignored = {name for name in REASONING_FIELDS if name in fields}
        if isinstance(value, dict) and value.keys() - ignored:
            value = {name: item for name, item in value.items() if name not in ignored}
        return dict(leaves(value))

    def _leaf_score(self, actual: object, expected: object) -> float:
        if is_json_number(actual) and is_json_number(expected):
            return float(is_near(actual, expected, self.tolerance))  # type: ignore[arg-type]
        if isinstance(actual, str) and isinstance(expected, str):
            if normalized(actual) == normalized(expected):
                return 1.0
            is_prose = len(expected.split()) > PROSE_WORDS
            return similarity(actual, expected) if is_prose else 0.0
        return float(type(actual) is type(expected) and actual == expected)


def is_json_object(text: str) -> bool:
    """Whether `text` is a JSON object or list."""
    return isinstance(_parse_json(text), dict | list)


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Paths such as `lines[0].name` with their values; empty containers are leaves."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            if item is not MISSING:
                yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _parse_json(text: str | None) -> object:
    if text is None:
        return NOT_JSON
    fenced = CODE_FENCE.match(text)
    return as_value(fenced[1] if fenced else text, otherwise=NOT_JSON)


@dataclass(frozen=True)
class NumericMatch:
    """Accuracy over numbers.

    The last number in the output counts, so that showing the sum or naming a unit costs nothing.
    `tolerance` is for fractions: relative to the gold number, absolute if that is 0.
    """

    tolerance: float

    name = "numeric"
    measure = "accuracy"

    def score(self, output: str, gold: str) -> float:
        actual, expected = _last_number(output), _last_number(gold)
        if actual is None or expected is None:
            return 0.0
        return float(same_number(actual, expected, self.tolerance))

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        numbers = [
            (last_number(output), last_number(gold)) for output, gold in pairs if output is not None
        ]
        errors = [abs(a - b) for a, b in numbers if a is not None and b is not None]
        return {
            "without_number": len(pairs) - len(errors),
            "median_absolute_error": median(errors) if errors else None,
            "tolerance": self.tolerance,
        }


def _last_number(text: str) -> Number | None:
    """The number that `text` is, else the last one in it."""
    return number_of(text) or next(reversed(list(numbers_in(text))), None)


def last_number(text: str) -> float | None:
    """The last finite number in `text`."""
    number = _last_number(text)
    return None if number is None else float(number.value)


def is_number(text: str) -> bool:
    """Whether `text` is one number, with or without a currency or percent sign; not a code."""
    number = number_of(text)
    return number is not None and not number.is_code


class TextSimilarity:
    """chrF of each output, and how long outputs are."""

    name = "text"
    measure = "chrF"

    def score(self, output: str, gold: str) -> float:
        return similarity(output, gold)

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Words of the outputs over words of the gold answers; 1 is the right length."""
        readable = [(output, gold) for output, gold in pairs if output is not None]
        words = sum(len(output.split()) for output, _ in readable)
        gold_words = sum(len(gold.split()) for _, gold in readable)
        return {"length_ratio": words / gold_words if gold_words else None}


def similarity(output: str, gold: str) -> float:
    """chrF of `output` against `gold`, from 0 to 1.

    An F-score over character n-grams up to 6, with recall weighted twice, which works in any
    language and script (Popović 2015, https://aclanthology.org/W15-3049); by sacrebleu, on one
    row at a time.
    """
    if output == gold:
        return 1.0
    score: float = _chrf().sentence_score(output, [gold]).score
    return min(1.0, score / 100)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@dataclass(frozen=True)
class CustomMetric:
    """`function(output, gold)` returns true, false or a score from 0 to 1."""

    function: Callable[[str, str], Any]
    name: str

    @property
    def measure(self) -> str:
        return self.name.rpartition(":")[2]

    def score(self, output: str, gold: str) -> float:
        """The function's score.

        Raises:
            InputError: the function failed, or returned something else.
        """
        with user_code(f"metric {self.name}"):
            returned = self.function(output, gold)
        try:
            score = float(returned)
        except (TypeError, ValueError) as error:
            raise self._invalid(returned, output, gold) from error
        if not 0 <= score <= 1:
            raise self._invalid(returned, output, gold)
        return score

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:  # noqa: ARG002 - only it knows
        return {}

    def _invalid(self, returned: object, output: str, gold: str) -> InputError:
        return InputError(
            f"metric {self.name}: returned {returned!r} for output {output[:60]!r} "
            f"and gold {gold[:60]!r}; it must return true, false or a number from 0 to 1.",
        )
