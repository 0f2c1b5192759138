"""Reading generated examples: every form that teachers write, and what is broken in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanodistill.synthesis.generation_parser import Example, InvalidExample, parse_examples

ROWS = [Example("2 + 2", "4"), Example("first line\nsecond line", "two\nlines")]
AS_JSON = [{"input": row.input, "output": row.output} for row in ROWS]
BLOCKS = """Sure! Here they are.

## Example 1
**Input:** 2 + 2
**Output:** 4

## Example 2
**Input:** first line
second line
**Output:** two
lines
"""
LINES = """Input: 2 + 2
Output: 4
---
Input: first line
second line
Output: two
lines
"""


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(AS_JSON),
        json.dumps({"examples": AS_JSON}),
        f"Here:\n```json\n{json.dumps(AS_JSON, indent=2)}\n```\nDone [2 rows].",
        "\n".join(map(json.dumps, AS_JSON)),
        BLOCKS,
        BLOCKS.replace("**", "").replace("##", "###"),
        LINES,
        LINES.replace("Input", "1. Input").replace("Output", "- output"),
    ],
)
def test_forms(text: str) -> None:
    assert parse_examples(text) == ROWS


def test_parsed_data_comes_before_the_text() -> None:
    assert parse_examples(LINES, data={"examples": [{"input": "x"}]}) == [Example("x")]
    assert parse_examples(LINES, data=None) == ROWS


def test_bare_texts_are_inputs() -> None:
    assert parse_examples('["one", "two"]') == [Example("one"), Example("two")]


def test_a_list_that_broke_off_keeps_its_whole_rows() -> None:
    text = json.dumps({"examples": [*AS_JSON, {"input": "never finished"}]})
    assert parse_examples(text[:-20]) == ROWS


def test_a_row_that_cannot_be_used_is_still_there() -> None:
    rows = parse_examples(json.dumps([{"input": "a"}, {"output": "b"}, 3, {"input": "  "}]))
    assert rows[0] == Example("a")
    assert [row.why for row in rows if isinstance(row, InvalidExample)] == [
        "no input",
        "a row that is int",
        "no input",
    ]


def test_values_that_are_no_text_become_json() -> None:
    (row,) = parse_examples('[{"Input": {"b": 1, "a": [2]}, "output": true}]')
    assert row == Example('{"b": 1, "a": [2]}', "true")


def test_a_block_without_input_is_broken() -> None:
    rows = parse_examples("## Example 1\nInput: a\n## Example 2\nnothing here\n")
    assert rows == [Example("a"), InvalidExample("nothing here", "no Input: in the block")]


class Tabbed:
    def parse_synthetic_examples(self, text: str) -> list[dict[str, str]]:
        pairs = (line.split("\t") for line in text.splitlines() if "\t" in line)
        return [{"input": a, "output": b} for a, b in pairs]


def test_the_users_parser_is_tried_first_and_then_ours() -> None:
    assert parse_examples("a\tb\n" + LINES, parser=Tabbed()) == [Example("a", "b")]
    assert parse_examples(LINES, parser=Tabbed()) == ROWS
    assert parse_examples("a\tb\tc\n" + LINES, parser=Tabbed()) == ROWS


@pytest.mark.parametrize("text", ["", "I can't do that.", "[1, 2]", "{", "Output: 4"])
def test_nothing_is_made_of_nothing(text: str) -> None:
    assert parse_examples(text) == []


@given(st.text(), st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_no_text_and_no_data_is_too_odd(text: str, data: Any) -> None:
    for row in parse_examples(text, data=data):
        assert isinstance(row, InvalidExample) or row.input.strip() == row.input != ""


@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1))
def test_json_brings_every_input_back(inputs: list[str]) -> None:
    text = "Rows: " + json.dumps([{"input": text} for text in inputs])
    assert parse_examples(text) == [Example(text) for text in inputs]
