"""Whatever a server answers, the reader gives a completion or a fault."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanodistill.errors import CallError, RequestRejectedError, TransientError
from nanodistill.providers.error_classifier import ErrorClassifier
from nanodistill.providers.prices import Price
from nanodistill.providers.response_parser import ResponseParser
from nanodistill.secrets import Redactor
from nanodistill.types import Completion, Usage

READER = ResponseParser(ErrorClassifier(Redactor([])), Price(1.0, 10.0, 0.5))
GOOD: dict[str, Any] = {
    "id": "1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "yes", "tool_calls": None},
        }
    ],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def read(body: Any) -> Completion:
    return READER.read(body, {}, 0.5)


def with_message(finish: str = "stop", **message: Any) -> dict[str, Any]:
    body = copy.deepcopy(GOOD)
    body["choices"][0]["message"] |= message
    body["choices"][0]["finish_reason"] = finish
    return body


def places(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a body."""
    inner = body.items() if isinstance(body, dict) else enumerate(body)
    found = [path]
    for key, value in inner if isinstance(body, dict | list) else ():
        found += places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
    return found


@given(place=st.sampled_from(places(GOOD)), value=ANYTHING)
def test_any_part_may_be_anything(place: tuple[Any, ...], value: Any) -> None:
    body: Any = copy.deepcopy(GOOD)
    if place:
        inside = body
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = value
    else:
        body = value
    try:
        completion = read(body)
    except CallError:
        return
    assert isinstance(completion.text, str)
    assert completion.usage.total_tokens >= 0
    completion.text.encode()


def test_a_good_one() -> None:
    completion = read(GOOD)
    assert completion == Completion(
        "yes", "stop", Usage(10, 5, 4, 2), model="m", latency=0.5, cost_usd=6 + 2 + 50
    )


def test_parts_of_the_tokens_are_no_more_than_the_whole() -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 9},
        "completion_tokens_details": {"reasoning_tokens": 9},
    }
    assert read(GOOD | {"usage": usage}).usage == Usage(3, 2, 3, 2)


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert read(with_message(content="a \ud83d b \U0001f600")).text == "a \ufffd b \U0001f600"


def test_content_in_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    completion = read(with_message(content=[thinking, {"type": "text", "text": "yes"}]))
    assert (completion.text, completion.reasoning) == ("yes", "hm")


def test_arguments_of_a_tool_are_the_text() -> None:
    call: dict[str, Any] = {"function": {"name": "Answer", "arguments": '{"a": 1}'}}
    completion = read(with_message("tool_calls", content=None, tool_calls=[call]))
    assert (completion.text, completion.finish_reason) == ('{"a": 1}', "tool_calls")
    call = {"function": {"name": "Answer", "arguments": {"a": 1}}}
    assert read(with_message("tool_calls", content=None, tool_calls=[call])).text == '{"a": 1}'


@pytest.mark.parametrize(
    ("body", "fate", "kind"),
    [
        (with_message(content=""), TransientError, "empty"),
        (with_message(content=None), TransientError, "empty"),
        (with_message("content_filter", content="x"), RequestRejectedError, "content_filter"),
        (with_message("refusal", content="no"), RequestRejectedError, "refusal"),
        (with_message(content=None, refusal="no"), RequestRejectedError, "refusal"),
        (with_message("insufficient_system_resource"), TransientError, "overloaded"),
        (with_message("error", content="half"), TransientError, "server_error"),
        (GOOD | {"choices": []}, TransientError, "bad_body"),
        (GOOD | {"choices": None, "error": "no"}, TransientError, "server_error"),
        ({"error": {"message": "Rate limit exceeded", "code": 429}}, TransientError, "rate_limit"),
        ({"detail": "Not Found"}, TransientError, "bad_body"),
    ],
)
def test_no_answer(body: Any, fate: type[CallError], kind: str) -> None:
    with pytest.raises(CallError) as caught:
        read(body)
    assert (type(caught.value), caught.value.kind) == (fate, kind)


@pytest.mark.parametrize(("tokens", "read_as"), [(-3, 0), (2.0, 2), ("7", 7), (None, 0), (True, 0)])
def test_odd_numbers_of_tokens(tokens: Any, read_as: int) -> None:
    body = GOOD | {"usage": {"prompt_tokens": tokens, "completion_tokens": 1}}
    assert read(body).usage == Usage(read_as, 1)


@pytest.mark.parametrize(
    "tokens", [float("inf"), float("nan"), 1e30, 10**40, "9" * 5000, "many", [1], {"a": 1}]
)
def test_usage_that_makes_no_sense_does_not_cost_the_answer(tokens: Any) -> None:
    answer = read(GOOD | {"usage": {"prompt_tokens": tokens, "completion_tokens": 1}})
    assert (answer.text, answer.usage) == (read(GOOD).text, Usage(0, 1))


def test_what_was_billed_goes_with_the_fault() -> None:
    with pytest.raises(RequestRejectedError) as filtered:
        read(with_message("content_filter", content="x"))
    assert filtered.value.usage == Usage(10, 5, 4, 2)
