"""What each metric counts as right, and which one the data calls for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from nanodistill.config import DeliverySettings
from nanodistill.config.training_fields import METRICS
from nanodistill.errors import InputError
from nanodistill.metrics.metric_selection import TaskFacts, choose_metric
from nanodistill.metrics.row_metrics import (
    OTHER_LABEL,
    UNREADABLE,
    FieldAccuracy,
    LabelAccuracy,
    NumericMatch,
    is_number,
    last_number,
    score_rows,
    similarity,
)
from nanodistill.values import normalized

OPEN = TaskFacts()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Billing", "billing"),
        ("  billing.\n", "billing"),
        ('"Billing".', "billing"),
        ("**billing**", "billing"),
        ("“billing issue”!", "billing issue"),
        ("ﬁne\u00a0 print", "fine print"),
        ("STRASSE", normalized("straße")),
        ("-5", "-5"),
        ("C#", "c#"),
        ("...", "..."),
        ("it's", "it's"),
        ("", ""),
    ],
)
def test_normalization(text: str, plain: str) -> None:
    assert normalized(text) == plain
    assert normalized(plain) == plain


def test_labels_by_hand() -> None:
    golds = ["a", "a", "a", "b", "b", "c"]
    outputs = ["A.", "b", None, "b", "billing of b", "a"]
    metric = LabelAccuracy(("a", "b", "c"))
    pairs = list(zip(outputs, golds, strict=True))
    assert score_rows(metric, pairs) == [1, 0, 0, 1, 0, 0]
    details = metric.details(pairs)
    # a: 1 right, 3 gold, 2 said; b: 1 right, 2 gold, 2 said; c: none right.
    assert details["labels"]["a"]["f1"] == pytest.approx(2 * 1 / (2 + 3))
    assert details["labels"]["b"]["f1"] == pytest.approx(2 * 1 / (2 + 2))
    assert details["labels"]["c"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 1,
        "predicted": 0,
    }
    assert details["macro_f1"] == pytest.approx((0.4 + 0.5 + 0) / 3)
    assert details["confusion"]["columns"] == ["a", "b", "c", OTHER_LABEL, UNREADABLE]
    assert details["confusion"]["rows"] == {
        "a": [1, 1, 0, 0, 1],
        "b": [0, 1, 0, 1, 0],
        "c": [1, 0, 0, 0, 0],
    }


def test_a_label_without_test_rows_is_left_out_of_macro_f1() -> None:
    metric = LabelAccuracy(("a", "b", "never"))
    assert metric.details([("a", "a"), ("b", "b")])["macro_f1"] == 1.0


def test_labels_that_normalization_would_join_stay_apart() -> None:
    metric = LabelAccuracy(("US", "us"))
    assert metric.score("US", "us") == 0
    assert metric.score("us", "us") == 1


def test_json_fields_by_hand() -> None:
    metric = FieldAccuracy(tolerance=0.01)
    gold = json.dumps({"name": "Ann", "total": 10, "paid": True, "lines": [{"n": 1}, {"n": 2}]})
    perfect = {"lines": [{"n": 1.0}, {"n": 2}], "paid": True, "total": 10.05, "name": "ann."}
    assert metric.score(f"```json\n{json.dumps(perfect)}\n```", gold) == 1
    # Right: name, lines[0].n. Wrong: total, paid (1 is not true), lines[1].n absent, extra made up.
    poor = {"name": "Ann", "total": 11, "paid": 1, "lines": [{"n": 1}], "extra": 0}
    assert metric.score(json.dumps(poor), gold) == pytest.approx(2 / 6)
    assert metric.score("Ann owes 10", gold) == 0
    details = metric.details([(json.dumps(poor), gold), (None, gold)])
    assert details["valid_json"] == 0.5
    assert details["whole_object"] == 0
    assert details["schema_valid"] is None
    assert details["fields"]["lines[].n"] == {"accuracy": 0.25, "n": 4}
    assert details["fields"]["name"] == {"accuracy": 0.5, "n": 2}


def test_long_text_inside_json_counts_by_similarity() -> None:
    metric = FieldAccuracy(tolerance=0)
    gold = json.dumps({"why": "the card was charged twice for one and the same order"})
    near = json.dumps({"why": "the card was charged twice for the same order"})
    assert 0.7 < metric.score(near, gold) < 1
    assert metric.score(json.dumps({"why": "twice"}), json.dumps({"why": "double"})) == 0


def test_json_schema_validity() -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    metric = FieldAccuracy(tolerance=0, schema=schema)
    pairs = [(text, '{"n": 1}') for text in ('{"n": 2}', '{"n": "2"}', "{}", "no", None)]
    assert metric.details(pairs)["schema_valid"] == pytest.approx(1 / 5)


def test_a_schemas_own_reasoning_is_not_judged() -> None:
    schema = {"type": "object", "properties": {"reasoning": {}, "label": {}}}
    gold = json.dumps({"reasoning": "it was paid for twice", "label": "billing"})
    said = json.dumps({"reasoning": "something about money", "label": "billing"})
    assert FieldAccuracy(tolerance=0, schema=schema).score(said, gold) == 1
    assert FieldAccuracy(tolerance=0).score(said, gold) == 0.5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("2 + 2 = 4.", 4),
        ("about $1,234.50 a year", 1234.5),
        ("-7", -7),
        ("−7", -7),  # noqa: RUF001
        ("3-5", 5),
        (".5", 0.5),
        ("6.02e23", 6.02e23),
        ("H2O", None),
        ("none", None),
        ("1e999", None),
    ],
)
def test_the_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_numbers_within_tolerance() -> None:
    metric = NumericMatch(tolerance=0.01)
    assert metric.score("100.9", "100") == 1
    assert metric.score("101.1", "100") == 0
    assert metric.score("0.009", "0") == 1
    assert metric.score("none", "100") == 0
    details = metric.details([("90", "100"), ("none", "100"), (None, "100"), ("130", "100")])
    assert (details["without_number"], details["median_absolute_error"]) == (2, 20)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("3.5", True), ("$1,200", True), ("40 %", True), ("3 km", False), ("007", False)],
)
def test_wholly_a_number(text: str, is_one: bool) -> None:
    assert is_number(text) is is_one


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("5551239999", "5551234567", False),
        ("5551234567", "5551234567", True),
        ("5551234567.0", "5551234567", True),
        ("5551234566.5", "5551234567", False),
        ("1700000001", "1700000000", False),
        ("12345678901234567", "12345678901234568", False),
        ("The number is 007.", "007", True),
        ("7", "007", False),
        ("3,50", "3.5", True),
        ("3,50 €", "3.5", True),
        ("1,234", "1234", True),
        ("1.234,50", "1234.5", True),
        ("1.234.567", "1234567", True),
        ("0,500", "0.5", True),
        ("12,34,567", "1234567", True),
        ("1'234.50", "1234.5", True),
        ("1 234 567", "1234567", True),
        ("It is 1\u202f234,5 km", "1234.5", True),
        ("€5", "$5", False),
        ("5", "$5", True),
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("3.1415926536", "3.1415926535", True),
        ("4.0000001", "4", True),
        ("1.5", "15", False),
        ("1.2.3", "3", False),
    ],
)
def test_whole_numbers_and_codes_are_exact(output: str, gold: str, right: bool) -> None:
    assert NumericMatch(1e-6).score(output, gold) == right


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ({"id": 5551239999}, {"id": 5551234567}, False),
        ({"a": [{"at": 1700000001}]}, {"a": [{"at": 1700000000}]}, False),
        ({"id": 12345678901234567}, {"id": 12345678901234568}, False),
        ({"x": 0.1 + 0.2}, {"x": 0.3}, True),
        ({"x": 3.0}, {"x": 3}, True),
        ({"x": True}, {"x": 1}, False),
        ({"x": "true"}, {"x": True}, False),
        ({"x": "1"}, {"x": 1}, False),
        ({"code": "7"}, {"code": "007"}, False),
        ({"x": None, "y": 1}, {"y": 1}, True),
        ({"y": 1}, {"x": None, "y": 1}, True),
        ({"x": "", "y": 1}, {"x": None, "y": 1}, False),
        ({"x": float("nan")}, {"x": float("nan")}, True),
        ({"x": ["a", "b"]}, {"x": ["b", "a"]}, False),
        ({"grade": "A-"}, {"grade": "A"}, False),
        ({"size": "5 m²"}, {"size": "5 m2"}, False),
    ],
)
def test_values_of_fields(output: Any, gold: Any, right: bool) -> None:
    score = FieldAccuracy(1e-6).score(json.dumps(output), json.dumps(gold))
    assert (score == 1) is right


def test_lists_without_order() -> None:
    class Part(BaseModel):
        names: set[str]
        steps: list[str]
        rows: list[dict[str, int]] = Field(json_schema_extra={"unordered": True})

    class Whole(BaseModel):
        part: Part | None

    metric = FieldAccuracy(0, Whole.model_json_schema())
    gold = {"part": {"names": ["a", "b", "c"], "steps": ["x", "y"], "rows": [{"n": 1}, {"n": 2}]}}
    same = {"part": {"names": ["c", "A", "b"], "steps": ["x", "y"], "rows": [{"n": 2}, {"n": 1}]}}
    assert metric.score(json.dumps(same), json.dumps(gold)) == 1
    poor = {"part": {"names": ["c", "d"], "steps": ["y", "x"], "rows": [{"n": 2}]}}
    # Right: names c, rows n=2. Wrong: names a and b (d in place of one), both steps, rows n=1.
    assert metric.score(json.dumps(poor), json.dumps(gold)) == pytest.approx(2 / 7)


def test_labels_keep_their_marks() -> None:
    metric = LabelAccuracy(("A", "A*", "US", "us", "-1", "1"))
    golds = ["A", "A*", "US", "us", "-1", "1"]
    for gold in golds:
        for form in ("{}", '"{}"', "**{}**", "{}."):
            assert [metric.score(form.format(gold), other) for other in golds] == [
                other == gold for other in golds
            ]


def test_similarity_is_chrf() -> None:
    assert similarity("the same", "the same") == 1
    assert similarity("完全不同", "the same") == 0
    assert similarity("", "the same") == 0
    # By hand: output "ab", gold "abc": orders 1 to 3; the third has no n-gram in the output and
    # sacrebleu leaves it out. Precision 1, 1; recall 2/3, 1/2: mean P 1, mean R 7/12, F2.
    precision, recall = 1, (2 / 3 + 1 / 2) / 2
    f2 = 5 * precision * recall / (4 * precision + recall)
    assert similarity("ab", "abc") == pytest.approx(f2)


def many(*golds: str) -> list[str]:
    return list(golds) * 4


@pytest.mark.parametrize(
    ("task", "golds", "name"),
    [
        (TaskFacts(labels=("bug", "billing")), ["bug"], "label"),
        (TaskFacts(schema={"type": "object"}), ["text"], "json"),
        (OPEN, ['{"a": 1}', '{"a": 2}'], "json"),
        (OPEN, many("1", "2"), "numeric"),
        (OPEN, ["007", "12", "0815"], "exact"),
        (OPEN, many("bug", "billing"), "label"),
        (TaskFacts(labels=()), many("bug", "billing"), "exact"),
        (OPEN, ["Paris", "Rome", "Oslo"], "exact"),
        (OPEN, ["Dear customer, we are sorry to hear that your order has not come."] * 3, "text"),
    ],
)
def test_the_data_chooses(task: TaskFacts, golds: list[str], name: str) -> None:
    assert choose_metric(DeliverySettings(), task, golds).metric.name == name


def test_a_named_metric_is_taken() -> None:
    settings = DeliverySettings(metric="exact")
    assert choose_metric(settings, OPEN, many("1", "2")).metric.name == "exact"


def test_every_named_metric_can_be_chosen() -> None:
    golds = ["1", "2"] * 3
    chosen = {
        name: choose_metric(DeliverySettings(metric=name), OPEN, golds).metric.name
        for name in METRICS
        if name not in ("auto", "json")
    }
    assert list(chosen) == list(chosen.values())


@pytest.mark.parametrize("name", ["json", "numeric"])
def test_a_metric_that_the_gold_answers_do_not_fit_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"1 of 2 gold answers.*'Paris'"):
        choose_metric(DeliverySettings(metric=name), OPEN, ['{"a": 1}', "Paris"])


def starts_alike(output: str, gold: str) -> Any:
    return {"x": "broken", "y": 2}.get(output, output[0] == gold[0])


def test_a_function_of_ones_own() -> None:
    metric = choose_metric(DeliverySettings(metric=starts_alike), OPEN, ["abc"]).metric
    assert metric.measure == "starts_alike"
    assert score_rows(metric, [("axx", "abc"), ("bxx", "abc"), (None, "abc")]) == [1, 0, 0]
    with pytest.raises(InputError, match=r"starts_alike: .*'broken'.*'x'"):
        metric.score("x", "gold")
    with pytest.raises(InputError, match=r"starts_alike: .* 2 .*'y'"):
        metric.score("y", "gold")
