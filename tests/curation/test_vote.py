"""Agreement: when two answers are the same, which of several is kept, how sure a share is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanodistill.curation.filter_pipeline import Accounts
from nanodistill.curation.voting import Vote, choose, same_answer


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Billing.", " billing", True),
        ("true", "True", True),
        ("4", "4.0", True),
        ("1,000", "1000", True),
        ("$5", "5.00", True),
        ('{"a": 1, "b": "X"}', '{"b": "x ", "a": 1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ("[1, 2]", "[2, 1]", False),
        ("yes", "no", False),
        ("+", "-", False),
        ("4", "40", False),
        ("C++", "C", False),
        ("A-", "A", False),
        ("-1", "1", False),
        ("\u22121", "-1", True),
        ("👍", "👎", False),
        ("3,50", "3.5", True),
        ("1.234,50 €", "1,234.5", True),
        ("$5", "€5", False),
        ("5%", "5 %", True),
        ("007", "7", False),
        ("0.30000000000000004", "0.3", True),
        ("12345678901234567", "12345678901234568", False),
        ("1e3", "1000", True),
        ("1e99999999999999999999", "2", False),
        ("\u0663\u066b\u0665", "3.5", True),
        ("-0", "0", True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": true}', '{"a": "true"}', False),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": {"b": -0.0}}', '{"a": {"b": 0}}', True),
        ('{"a": null}', "{}", True),
        ('{"a": null}', '{"a": ""}', False),
        ('{"a": NaN}', '{"a": NaN}', True),
        ('{"id": 12345678901234567}', '{"id": 12345678901234568}', False),
        ("[" * 5000, "[" * 5000, True),
        ("[" * 500 + "]" * 500, "[" * 499 + "]" * 499, False),
        ("9" * 5000, "9" * 5000, True),
    ],
)
def test_same_answer(a: str, b: str, same: bool) -> None:
    assert same_answer(a, b) is same
    assert same_answer(b, a) is same


TAGS = {"type": "object", "properties": {"tags": {"$ref": "#/$defs/Tags"}},
        "$defs": {"Tags": {"type": "array", "uniqueItems": True}}}  # fmt: skip


def test_sets_have_no_order_in_a_vote() -> None:
    one, other = '{"tags": ["a", "B"]}', '{"tags": ["b", "a"]}'
    assert same_answer(one, other, TAGS)
    assert not same_answer(one, other)
    assert choose(["{}", one, other], asked=3, schema=TAGS) == Vote(1, 2 / 3)


def test_the_majority_wins_and_the_first_of_equals() -> None:
    assert choose(["no", "Yes.", "yes"], asked=3) == Vote(1, 2 / 3)
    assert choose(["a", "b"], asked=2) == Vote(0, 0.5)


def test_samples_that_said_nothing_agree_with_nobody() -> None:
    assert choose(["a", "a"], asked=4) == Vote(0, 0.5)


def test_objects_are_voted_on_field_by_field() -> None:
    samples = ['{"q": "bug", "n": 1}', '{"q": "bug", "n": 2}', '{"q": "x", "n": 2}']
    assert choose(samples, asked=3) == Vote(1, 2 / 3)
    assert choose(["{}", "{}"], asked=2) == Vote(0, 1.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["kept", "same", "timeout"]))))
def test_accounts_add_up_for_the_run_and_each_cell(ends: list[tuple[str, str]]) -> None:
    accounts = Accounts()
    for cell, end in ends:
        accounts.requested(cell)
        match end:
            case "kept":
                accounts.kept(cell)
            case "timeout":
                accounts.failed(cell, end)
            case _:
                accounts.rejected(cell, end)
    total = accounts.total()
    assert total.requested == len(ends)
    assert total.under_way == 0
    assert all(tally.under_way == 0 for tally in accounts.cells.values())
    assert total.rejected.total() == sum(end == "same" for _, end in ends)
