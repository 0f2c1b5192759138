"""Answers that the loopback teacher gives by itself: the same request, the same answer.

With a JSON schema the answer is an instance of it, without one it is a few
made-up words; both are drawn from a hash of the messages (and of the request's
`seed`, where it has one), so that an interrupted run and an undisturbed one
hear the same.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

SYLLABLES = [
    "ba",
    "de",
    "fi",
    "go",
    "lu",
    "ma",
    "ne",
    "pi",
    "ro",
    "su",
    "ta",
    "ve",
    "wi",
    "xo",
    "yu",
    "za",
    "cre",
    "dri",
    "fla",
    "glo",
    "ple",
    "sti",
    "tru",
]


def dice_for(body: Mapping[str, Any]) -> random.Random:
    """A source of chance that depends on what decides the answer alone."""
    decisive = [body.get("system"), body["messages"], body.get("seed"), body.get("temperature")]
    text = json.dumps(decisive, sort_keys=True)
    return random.Random(hashlib.sha256(text.encode()).digest())


def words(dice: random.Random, n: int) -> str:
    return " ".join("".join(dice.choices(SYLLABLES, k=dice.randint(2, 4))) for _ in range(n))


def instance_of(
    schema: Mapping[str, Any],
    dice: random.Random,
    *,
    items: int = 3,
    definitions: Mapping[str, Any] | None = None,
) -> Any:
    """A value that the schema allows. Lists have `items` members where the schema lets them."""
    known = definitions or schema.get("$defs") or {}

    def again(part: Mapping[str, Any]) -> Any:
        return instance_of(part, dice, items=items, definitions=known)

    if "$ref" in schema:
        return again(known[schema["$ref"].rsplit("/", 1)[-1]])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return dice.choice(schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return again(schema[choice][0])
    if "allOf" in schema:
        return again(schema["allOf"][0])
    match schema.get("type"):
        case "object":
            return {name: again(part) for name, part in schema.get("properties", {}).items()}
        case "array":
            n = max(schema.get("minItems", 0), min(schema.get("maxItems", items), items))
            return [again(schema["items"]) for _ in range(n)]
        case "integer":
            return dice.randint(schema.get("minimum", 0), schema.get("maximum", 100))
        case "number":
            return round(dice.uniform(schema.get("minimum", 0), schema.get("maximum", 1)), 3)
        case "boolean":
            return dice.random() < 0.5
        case "null":
            return None
        case _:
            return words(dice, 8)


def schema_in(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that a prompt spells out, if it does: for teachers asked in plain text."""
    decoder = json.JSONDecoder()
    for text in texts_in([body.get("system"), *(each["content"] for each in body["messages"])]):
        at = text.find("{")
        while at >= 0:
            try:
                found, _ = decoder.raw_decode(text, at)
            except ValueError:
                found = None
            if isinstance(found, dict) and "type" in found:
                return found
            at = text.find("{", at + 1)
    return None


def texts_in(content: Any) -> Iterator[str]:
    """All texts of a message's content: one text, or a list of parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from texts_in(part)
    elif isinstance(content, Mapping):
        yield from texts_in(content.get("text"))
