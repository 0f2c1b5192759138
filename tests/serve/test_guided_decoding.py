"""Schemas become grammars, or checks, or refusals; none is ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from evaluation.tiny import make_model
from llguidance import LLMatcher

from nanodistill.models.loading import LoadedModel, load_model
from nanodistill.serve.guided_decoding import (
    Grammars,
    InvalidSchemaError,
    check_schema,
    grammar_for,
    schema_violation,
)
from nanodistill.thinking import FORMATS

LABEL = {
    "type": "object",
    "properties": {"label": {"enum": ["bug", "billing"]}},
    "required": ["label"],
    "additionalProperties": False,
}
REFERS = {"$defs": {"L": LABEL}, "type": "object", "properties": {"of": {"$ref": "#/$defs/L"}},
          "required": ["of"], "additionalProperties": False}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(make_model(tmp_path_factory.mktemp("schema") / "model"))


@pytest.fixture(scope="module")
def grammars(loaded: LoadedModel) -> Grammars:
    return Grammars(loaded)


def lets_through(grammars: Grammars, loaded: LoadedModel, grammar: str, text: str) -> bool:
    matcher = LLMatcher(grammars.tokenizer, grammar)
    tokens = loaded.tokenizer.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


RIGHT = ['{"label": "bug"}', '{"label":"bug"}']
WRONG = ["bug", '{"label": "other"}', '{"label": "bug", "x": 1}', '{\n"label": "bug"}', ""]


@pytest.mark.parametrize("name", ["none", "xml", "markdown"])
def test_an_answer_of_the_schema_with_thinking_or_without(
    name: str, grammars: Grammars, loaded: LoadedModel
) -> None:
    form = FORMATS[name]
    grammar = grammars.grammar(LABEL, form)
    assert grammar is not None
    assert grammar.complete
    for answer in RIGHT:
        assert lets_through(grammars, loaded, grammar.text, answer)
        thought = form.format('Hm {"a"} < b.\n\nSo: bug.', answer)
        assert lets_through(grammars, loaded, grammar.text, thought)
    for answer in WRONG:
        assert not lets_through(grammars, loaded, grammar.text, answer)
        assert not lets_through(grammars, loaded, grammar.text, form.format("Hm.", answer))


def test_the_json_format_holds_the_answer_as_json(grammars: Grammars, loaded: LoadedModel) -> None:
    grammar = grammars.grammar(REFERS, FORMATS["json"])
    assert grammar is not None
    right = '{"reasoning": "hm", "answer": {"of": {"label": "bug"}}}'
    assert lets_through(grammars, loaded, grammar.text, right)
    assert not lets_through(grammars, loaded, grammar.text, right.replace("bug", "other"))
    assert FORMATS["json"].parse(right) == ("hm", '{"of":{"label":"bug"}}')


def test_what_a_grammar_can_not_say_is_left_to_the_check(grammars: Grammars) -> None:
    assert grammar_for(LABEL, FORMATS["plain"], lenient=False) is None
    odd = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    grammar = grammars.grammar(odd, FORMATS["none"])
    assert grammar is not None
    assert not grammar.complete
    assert schema_violation("[1, 1]", odd) is not None
    assert schema_violation("[1, 2]", odd) is None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "strange"}, "strange"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "http://127.0.0.1"),
    ],
)
def test_a_schema_that_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSchemaError, match=why):
        check_schema(schema)


def test_a_schema_that_can_not_be_compiled(grammars: Grammars) -> None:
    with pytest.raises(InvalidSchemaError, match="look-around"):
        grammars.grammar({"type": "string", "pattern": "(?=x)"}, FORMATS["none"])


def test_what_is_wrong_with_an_answer() -> None:
    assert schema_violation(json.dumps({"label": "bug"}), LABEL) is None
    assert (
        schema_violation('{"label": "no"}', LABEL)
        == "$.label: 'no' is not one of ['bug', 'billing']"
    )
    assert (schema_violation("{", LABEL) or "").startswith("not JSON")
