"""JSON as models write it: what is read, what is refused, and that nothing else comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanodistill.jsontext import MAX_DEPTH, NotJsonError, find_object, find_values, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WRITTEN = st.sampled_from(
    [
        "{value}",
        "Sure! Here it is:\n{value}\nAnything else?",
        "```json\n{value}\n```",
        "```\n{value}\n```",
        "<think>[maybe {{this}}]</think>\n{value}",
        "it ends here</think>{value}",
    ]
)
HOSTILE = st.text(st.sampled_from('[]{}",:\\/*\n `0123456789.eE+-ud8NaInftrue<think>\x00\ud83d'))


@given(VALUES.filter(lambda value: isinstance(value, dict | list) and bool(value)), WRITTEN)
def test_what_was_meant_is_found_first(value: Any, written: str) -> None:
    text = written.replace("{value}", json.dumps(value)).replace("{{this}}", "{this}")
    assert next(find_values(text)) == json.loads(json.dumps(value))


@given(HOSTILE)
def test_whatever_the_text_a_value_can_be_written_again(text: str) -> None:
    for value in find_values(text):
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('{"a": [1, 2,], }', {"a": [1, 2]}),
        ('{"a": 1, // one\n "url": "http://b/*c*/", /* two */ }', {"a": 1, "url": "http://b/*c*/"}),
        (r'{"a": "cut \ud83d"}', {"a": "cut \ufffd"}),
        (r'{"\udc00": "\ud83d\ude00"}', {"\ufffd": "😀"}),
        ('{"a": 1, "a": 1}', {"a": 1}),
    ],
)
def test_a_text_that_is_json(text: str, value: Any) -> None:
    assert loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "[" * 500 + "]" * 500,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "[NaN]",
        "[Infinity]",
        "[1e999]",
        "9" * 5_000,
        "9" * 400,
        '{"a": 1, "a": 2}',
        "{'a': 1}",
        '{"a": 1',
    ],
)
def test_a_text_that_is_no_json(text: str) -> None:
    with pytest.raises(NotJsonError):
        loads(text)


def test_the_depth_that_is_taken() -> None:
    assert loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(NotJsonError):
        loads("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_whole_items_of_a_list_that_breaks_off() -> None:
    assert list(find_values('[{"input": "a"}, {"input": "b"}, {"input": "c')) == [
        {"input": "a"},
        {"input": "b"},
    ]


def test_an_object_among_other_things() -> None:
    assert find_object('see [1, 2] and {"a": 1.5}') == {"a": 1.5}
    assert find_object("nothing") is None
