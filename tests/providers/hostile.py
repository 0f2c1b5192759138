"""Answers as no specification allows them: a good body, mutated in one of many ways.

Each mutation is what some server or model was seen to do, or what a careless one could. The same
body and dice give the same text, so that a run asked again gets the same answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

Body = dict[str, Any]
Mutation = Callable[[Body, random.Random], str]

DEEP = 3_000
ODD_TEXTS = (
    "", " ", "\n", "null", "[]", "{}", "NaN", "\x00", "\x1b[31m", "\ufeff", "\ud83d", "\u2028",
    "[" * DEEP, "{\"a\":" * DEEP, "9" * 5_000, "<think>", "</think>", "</thinking>", "<thinking>",
    "```", "I'm sorry, but I can't help with that.", "a" * 100_000,
)  # fmt: skip
FINISHES = (
    "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "content_filter: hate", "MAX_TOKENS", "length",
    "FinishReason.STOP", "eos", "", None, 3, 2.5, True, ["stop"], {"a": 1}, "\ud83d", "x" * 9_000,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (1e30, -5, 2**70, 0.5, "12", "many", None, [], {}, True, 10**400)
ANY: tuple[Any, ...] = (*ODD_TEXTS, *NUMBERS, [{}], {"a": [None]}, [[["deep"]]])


def message(body: Body) -> Body:
    found: Body = body["choices"][0]["message"]
    return found


def text_of(body: Body) -> str:
    held = message(body)
    calls = held.get("tool_calls")
    return str(calls[0]["function"]["arguments"] if calls else held["content"])


def with_text(body: Body, text: Any) -> str:
    held = message(body)
    if calls := held.get("tool_calls"):
        calls[0]["function"]["arguments"] = text
    else:
        held["content"] = text
    return json.dumps(body)


def odd_text(body: Body, dice: random.Random) -> str:
    return with_text(body, dice.choice(ODD_TEXTS))


def text_of_another_type(body: Body, dice: random.Random) -> str:
    return with_text(body, dice.choice(ANY))


def inserted(body: Body, dice: random.Random) -> str:
    text = text_of(body)
    at = dice.randrange(len(text) + 1)
    return with_text(body, text[:at] + dice.choice(ODD_TEXTS) + text[at:])


def cut_off(body: Body, dice: random.Random) -> str:
    text = text_of(body)
    return with_text(body, text[: dice.randrange(len(text) + 1)])


def wrapped(body: Body, dice: random.Random) -> str:
    frame = dice.choice(
        ("Sure! {}", "```json\n{}\n```", "<think>hm</think>{}", "hm</think>{}", "{}\n{}",
         "```xml\n{}\n```", "\n\n{}", '"{}"', "<Thinking>a</Thinking>{}")
    )  # fmt: skip
    return with_text(body, frame.replace("{}", text_of(body)))


def escaped(body: Body, dice: random.Random) -> str:
    """One character of the JSON inside becomes an escape of half a character, or of NUL."""
    text = text_of(body)
    at = dice.randrange(len(text)) if text else 0
    return with_text(body, text[:at] + dice.choice(("\\ud83d", "\\u0000", "\\x")) + text[at + 1 :])


def odd_values(body: Body, dice: random.Random) -> str:
    """A value of the JSON inside becomes something else."""
    try:
        value = json.loads(text_of(body))
    except (ValueError, RecursionError):
        return odd_text(body, dice)
    return with_text(body, json.dumps(_swapped(value, dice)))


def _swapped(value: Any, dice: random.Random) -> Any:
    if isinstance(value, dict) and value and dice.random() < 0.8:
        key = dice.choice(sorted(value))
        return value | {key: _swapped(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        return [*value[:at], _swapped(value[at], dice), *value[at + 1 :]]
    return dice.choice(ANY)


def odd_finish(body: Body, dice: random.Random) -> str:
    body["choices"][0]["finish_reason"] = dice.choice(FINISHES)
    return json.dumps(body)


def odd_usage(body: Body, dice: random.Random) -> str:
    usage = body["usage"] | {"prompt_tokens": dice.choice(NUMBERS)}
    usage["completion_tokens"] = dice.choice(NUMBERS)
    usage["prompt_tokens_details"] = dice.choice((None, [], {"cached_tokens": 1e30}, "x"))
    body["usage"] = dice.choice((usage, None, [], "none", usage))
    return json.dumps(body)


def in_reasoning(body: Body, dice: random.Random) -> str:
    held = message(body)
    text = text_of(body)
    held.pop("tool_calls", None)
    held |= {"content": None, dice.choice(("reasoning", "reasoning_content")): text}
    return json.dumps(body)


def in_parts(body: Body, dice: random.Random) -> str:
    parts = [{"type": "text", "text": text_of(body)}, dice.choice(({}, None, 3, "x", {"text": 1}))]
    message(body).pop("tool_calls", None)
    message(body)["content"] = parts
    return json.dumps(body)


def odd_place(body: Body, dice: random.Random) -> str:
    """A part of the body that is no text of the answer becomes anything, or is missing."""
    holder: Any = dice.choice((body, body["choices"][0], message(body)))
    key = dice.choice(sorted(holder))
    if dice.random() < 0.3:
        del holder[key]
    else:
        holder[key] = dice.choice(ANY)
    return json.dumps(body)


def odd_bytes(body: Body, dice: random.Random) -> str:
    text = json.dumps(body)
    kind = dice.randrange(5)
    if kind == 0:
        return text[: dice.randrange(len(text))]
    if kind == 1:
        return f"<html><title>{text[:20]}</title></html>"
    if kind == 2:
        return "[" * DEEP
    if kind == 3:
        return f"data: {text}\n\ndata: [DONE]\n\n"
    at = dice.randrange(len(text))
    return text[:at] + chr(dice.randrange(0x110000)) + text[at + 1 :]


MUTATIONS: tuple[Mutation, ...] = (
    odd_text, text_of_another_type, inserted, cut_off, wrapped, escaped, odd_values, odd_values,
    odd_finish, odd_usage, in_reasoning, in_parts, odd_place, odd_bytes,
)  # fmt: skip


def mutated(body: Mapping[str, Any], dice: random.Random) -> str:
    """`body` as it goes over the wire, changed in one to three ways."""
    wire = json.dumps(body)
    for _ in range(dice.choice((1, 1, 2, 3))):
        try:
            changed = json.loads(wire)
            text_of(changed)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            break
        if not isinstance(changed, dict):
            break
        try:
            wire = dice.choice(MUTATIONS)(changed, dice)
        except (LookupError, TypeError, AttributeError):
            break  # an earlier change took away what this one works on
    return wire
