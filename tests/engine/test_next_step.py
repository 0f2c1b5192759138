from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nanodistill.engine.response_validation import (
    LABEL_TOKENS,
    Answer,
    Exchange,
    Failure,
    MalformedAnswerError,
    is_repair,
    next_step,
    parse,
)
from nanodistill.types import Completion, FinishReason, Request, Usage

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}
PLAIN = Request("generate", "x", "m", ({"role": "user", "content": "hi"},), {"temperature": 0.7})
STRUCTURED = replace(PLAIN, schema=SCHEMA)


def link(request: Request, text: str, finish: FinishReason = "stop", tokens: int = 9) -> Exchange:
    return Exchange(request, request.key, Completion(text, finish, Usage(1, tokens)))


def follow(request: Request, reply: Callable[[Request], Exchange]) -> tuple[list[Exchange], Any]:
    """The chain of `request` when each of its requests gets `reply`."""
    chain = [reply(request)]
    while isinstance(step := next_step(chain), Request):
        chain.append(reply(step))
    return chain, step


def test_plain_text_is_an_answer() -> None:
    step = next_step([link(PLAIN, "anything")])
    assert isinstance(step, Answer)
    assert (step.completion.text, step.data, step.keys) == ("anything", None, (PLAIN.key,))


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "a"}',
        ' \n{"label": "a"}\n',
        '```json\n{"label": "a"}\n```',
        'Sure! Here it is:\n```\n{"label": "a"}\n```\nAnything else?',
        'The answer is {"label": "a"}, as [1] shows.',
        '<think>{"label": "b"}?</think>\n{"label": "a"}',
        '{"note": "first"} and then {"label": "a"}',
    ],
)
def test_json_is_found_where_models_put_it(text: str) -> None:
    assert parse(text, SCHEMA) == {"label": "a"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no complete JSON"),
        ("label: a", "no complete JSON"),
        ('{"label": "a"', "no complete JSON"),
        ('{"label": "c"}', r"at \$.label: 'c' is not one of"),
        ('{"label": "a", "more": 1}', "Additional properties"),
        ('{"label": NaN}', "no complete JSON"),
        ("[" * 100_000, "no complete JSON"),
        ("{" * 5_000, "no complete JSON"),
    ],
)
def test_what_is_wrong_with_a_text(text: str, says: str) -> None:
    with pytest.raises(MalformedAnswerError, match=says):
        parse(text, SCHEMA)


def test_a_truncated_answer_is_asked_once_more_with_more_room() -> None:
    limited = replace(PLAIN, params={"max_tokens": 100})
    chain, end = follow(limited, lambda request: link(request, "and so", "length", 100))
    assert [sent.request.params["max_tokens"] for sent in chain] == [100, 200]
    assert isinstance(end, Failure)
    assert (end.kind, end.request, len(end.keys)) == ("truncated", limited, 2)


@pytest.mark.parametrize(
    ("params", "cut_at", "then"),
    [
        ({}, 512, {"max_tokens": 8192}),
        ({}, 10_000, {"max_tokens": 20_000}),
        ({"max_completion_tokens": 50}, 50, {"max_completion_tokens": 100}),
    ],
)
def test_the_larger_limit(params: dict[str, int], cut_at: int, then: dict[str, int]) -> None:
    step = next_step([link(replace(PLAIN, params=params), "and so", "length", cut_at)])
    assert isinstance(step, Request)
    assert dict(step.params) == then


@pytest.mark.parametrize(
    ("limit", "said", "then"),
    [
        (LABEL_TOKENS, "", None),
        (LABEL_TOKENS, "<think>Hm, the text", None),
        (LABEL_TOKENS, "The label of this", 4096),
        (50, "", 4096),
        (9000, "", 18_000),
    ],
)
def test_a_short_answer_gets_room_to_reason(limit: int, said: str, then: int | None) -> None:
    request = replace(PLAIN, stage="check", params={"max_tokens": limit})
    step = next_step([link(request, said, "length", limit)])
    assert isinstance(step, Request)
    assert step.params.get("max_tokens") == then


def test_a_whole_answer_after_truncation_counts() -> None:
    def reply(request: Request) -> Exchange:
        longer = "max_tokens" in request.params
        return link(request, "all of it" if longer else "all", "stop" if longer else "length")

    chain, end = follow(PLAIN, reply)
    assert isinstance(end, Answer)
    assert (end.completion.text, end.keys) == ("all of it", tuple(sent.key for sent in chain))


def test_malformed_json_gets_one_short_repair() -> None:
    chain, end = follow(STRUCTURED, lambda request: link(request, '{"label": "c"}'))
    assert len(chain) == 2
    repair = chain[1].request
    assert is_repair(repair)
    assert not is_repair(STRUCTURED)
    assert repair.schema == SCHEMA
    content = repair.messages[-1]["content"]
    assert '{"label": "c"}' in content
    assert "is not one of" in content
    assert "hi" not in content
    assert isinstance(end, Failure)
    assert end.kind == "malformed"


def test_a_repaired_answer_counts() -> None:
    chain, end = follow(
        STRUCTURED, lambda r: link(r, '{"label": "a"}' if is_repair(r) else "label a")
    )
    assert isinstance(end, Answer)
    assert (end.data, end.request, len(chain)) == ({"label": "a"}, STRUCTURED, 2)


@pytest.mark.parametrize("finishes", [["length", "stop", "length"], ["stop", "length", "length"]])
def test_a_chain_ends_after_three_calls_at_most(finishes: list[FinishReason]) -> None:
    left = iter(finishes)
    chain, end = follow(STRUCTURED, lambda request: link(request, "{", next(left)))
    assert len(chain) == 3
    assert isinstance(end, Failure)


def test_a_withheld_answer_is_lost() -> None:
    step = next_step([link(PLAIN, "I", "content_filter")])
    assert isinstance(step, Failure)
    assert step.kind == "content_filter"


def test_the_same_answers_give_the_same_chain() -> None:
    first, _ = follow(STRUCTURED, lambda request: link(request, "no"))
    again, _ = follow(
        replace(STRUCTURED, schema=json.loads(json.dumps(SCHEMA))), lambda r: link(r, "no")
    )
    assert [sent.key for sent in first] == [sent.key for sent in again]
