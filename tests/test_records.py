"""Identity: what changes a key or an id, and what does not."""

from __future__ import annotations

from dataclasses import replace

from nanodistill.types import Request, canonical_json, trace_id

REQUEST = Request(
    stage="generate",
    endpoint="openai",
    model="gpt",
    messages=({"role": "user", "content": "Hello"},),
    params={"temperature": 0.5, "top_p": 1},
)


def test_a_key_is_known_and_stable() -> None:
    assert REQUEST.key == "6ddcb829db1ab82d7ff9302f8d7370e30848be45a0b8f735753a8c8cbc2c8f76"
    reordered = replace(REQUEST, params={"top_p": 1, "temperature": 0.5})
    assert reordered.key == REQUEST.key


def test_the_stage_is_no_part_of_a_key_and_all_that_decides_the_answer_is() -> None:
    assert replace(REQUEST, stage="trace").key == REQUEST.key
    changed = [
        replace(REQUEST, endpoint="azure"),
        replace(REQUEST, model="other"),
        replace(REQUEST, messages=({"role": "user", "content": "Hello "},)),
        replace(REQUEST, params={"temperature": 0.6}),
        replace(REQUEST, schema={"type": "object"}),
        replace(REQUEST, ordinal=1),
    ]
    assert len({request.key for request in [REQUEST, *changed]}) == 7


def test_a_trace_is_the_same_whatever_its_white_space_and_unicode_form() -> None:
    assert trace_id("seed", "caf\u00e9  au\nlait ", "x") == trace_id(
        "seed", "cafe\u0301 au lait", "x"
    )
    assert trace_id("seed", "a", "b") != trace_id("synthetic", "a", "b")
    assert trace_id("seed", "ab", "") != trace_id("seed", "a", "b")


def test_canonical_json_keeps_lone_surrogates_hashable() -> None:
    assert trace_id("seed", "\ud800", "x") != trace_id("seed", "\ud801", "x")
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
