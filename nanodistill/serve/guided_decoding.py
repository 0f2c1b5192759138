"""What answer is wanted: free text, any JSON object, or JSON of a schema.

The schema is put to the model as a grammar: only tokens are drawn that lead to
an answer of it, with thinking before it where the format has thinking. What the
grammar library can't express is left out of the grammar and found by checking
the answer, which is drawn again a few times; a schema is honoured or refused,
never ignored.

Only tokens that a grammar allows are drawn.

llguidance keeps the state of the grammar and says for each token of the
vocabulary whether it may come next; the logits of the others become minus
infinity before anything is drawn.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from referencing.exceptions import Unresolvable

from nanodistill.serve.reasoning_parser import Marks, marks_of
from nanodistill.thinking import FORMATS, has_thinking

if TYPE_CHECKING:
    from nanodistill.thinking import Format
if TYPE_CHECKING:
    import mlx.core as mx
    from llguidance import LLMatcher

    from nanodistill.models.loading import LoadedModel
    from nanodistill.thinking import Format


CHECK = [
    sys.executable,
    "-c",
    "from nanodistill.serve.guided_decoding import check_here; check_here()",
]
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
ON_ONE_LINE: Mapping[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ",[ ]?",
    "key_separator": ":[ ]?",
}
"""JSON as datasets hold it: on one line, with or without single spaces. A small model that may
write more white space than that writes little else."""


DEEPEST, MOST_PARTS = 60, 10_000
"""Levels and values of a schema; the recursion of the libraries that read it has its own ends."""


class InvalidSchemaError(ValueError):
    """A schema that is none, is too large, or refers to something outside itself."""


@dataclass(frozen=True)
class Grammar:
    """A grammar for llguidance. `complete` means that what it lets through needs no check."""

    text: str
    complete: bool


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises BadSchema."""
    from jsonschema import Draft202012Validator, SchemaError

    _check_size(schema)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as wrong:
        raise InvalidSchemaError(f"the schema is no JSON schema: {wrong.message}") from wrong
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise InvalidSchemaError(
                f"the schema refers to {reference}, and nothing outside it is fetched"
            )


def _check_size(schema: Mapping[str, Any]) -> None:
    """Level by level, so that no schema is too deep to be measured."""
    level: list[Any] = [schema]
    depth = parts = 0
    while level:
        depth, parts = depth + 1, parts + len(level)
        if depth > DEEPEST or parts > MOST_PARTS:
            raise InvalidSchemaError(
                f"the schema is too large: at most {DEEPEST} levels and "
                f"{MOST_PARTS} values are read"
            )
        level = [
            below
            for value in level
            if isinstance(value, Mapping | list)
            for below in (value.values() if isinstance(value, Mapping) else value)
        ]


async def problem_apart(content: str, schema: Mapping[str, Any], seconds: float) -> str | None:
    """`problem`, in a process that is ended when the time is over.

    A client's `pattern` can keep Python's regular expressions busy for years, and nothing else
    in this process runs meanwhile.

    Raises:
        BadSchema: the check took too long, or the schema can't be followed to its end.
    """
    asked = json.dumps([content, schema]).encode()
    try:
        with anyio.fail_after(seconds):
            done = await anyio.run_process(CHECK, input=asked, stderr=None, start_new_session=True)
    except TimeoutError as late:
        raise InvalidSchemaError(
            f"to check an answer of the schema takes over {seconds:g} s"
        ) from late
    said = json.loads(done.stdout)
    if said["bad"] is not None:
        raise InvalidSchemaError(said["bad"])
    told: str | None = said["problem"]
    return told


def check_here() -> None:
    """The process of `problem_apart`: content and schema on standard input, the answer on
    standard output."""
    content, schema = json.load(sys.stdin)
    said: dict[str, str | None] = {"bad": None, "problem": None}
    try:
        said["problem"] = problem(content, schema)
    except RecursionError:
        said["bad"] = "the schema refers to itself without end"
    except re.error as wrong:
        said["bad"] = f"a pattern of the schema can't be read: {wrong}"
    except Unresolvable as lost:
        said["bad"] = f"the schema refers to what it does not hold: {lost}"
    sys.stdout.write(json.dumps(said))


def problem(content: str, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer, None if it is of the schema."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        value = json.loads(content)
    except ValueError as broken:
        return f"it is not JSON: {broken}"
    nothing_fetched: Any = Registry()
    found = next(Draft202012Validator(schema, registry=nothing_fetched).iter_errors(value), None)
    return None if found is None else f"{found.json_path}: {found.message}"


def grammar_for(schema: Mapping[str, Any], form: Format, *, lenient: bool) -> str | None:
    """The grammar of an answer in `form` with content of `schema`; None where a format's text
    can't be told by a grammar.

    `lenient` leaves out of the grammar what the library can't express.
    """
    if form is FORMATS["json"]:
        return f"start: answer\n{_answer(_in_json_form(schema), lenient)}"
    if not has_thinking(form):
        return f"start: answer\n{_answer(schema, lenient)}"
    marks = marks_of(form)
    if marks is None or not marks.can_be_streamed:
        return None
    return f"start: thought answer | answer\n{_thought(marks)}{_answer(schema, lenient)}"


def _thought(marks: Marks) -> str:
    """Thinking ends with the first mark that ends it."""
    mark = marks.between.strip()
    lead, _, tail = marks.between.partition(mark)
    return (
        f"thought: {json.dumps(marks.before)} inside {json.dumps(tail)}\n"
        f"inside[suffix={json.dumps(lead + mark)}]: /(?s:.*)/\n"
    ).replace(' ""\n', "\n")


def _answer(schema: Mapping[str, Any], lenient: bool) -> str:
    told = {**ON_ONE_LINE, "lenient": lenient}
    return f"answer: %json {json.dumps({**schema, 'x-guidance': told})}\n"


def _in_json_form(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the `json` thinking format around an answer of `schema`. What the schema
    refers to moves up with it, because references begin at the root."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, "answer": dict(schema)},
        "required": ["answer"],
        "additionalProperties": False,
        **shared,
    }


def _references(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [held for key, held in value.items() if key == "$ref" and isinstance(held, str)]
        return own + [found for held in value.values() for found in _references(held)]
    if isinstance(value, list):
        return [found for held in value for found in _references(held)]
    return []


COMPILING = "failed to compile JSON schema: "


class GrammarLost(RuntimeError):
    """A grammar that became too large while it was followed, or leads to no answer."""

    def __init__(self, said: str) -> None:
        super().__init__((said.strip().splitlines() or ["no answer is possible"])[0])


class Constraint:
    """A logits processor for one request."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._seen: int | None = None

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        import mlx.core as mx
        import numpy as np

        if self._seen is not None:
            drawn: Any = tokens[self._seen :].tolist()
            for token in drawn:
                if not self._matcher.consume_token(token):
                    raise GrammarLost(self._matcher.get_error())
        self._seen = len(tokens)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarLost(self._matcher.get_error())
        allowed = np.zeros(logits.shape[-1], dtype=bool)
        known = np.unpackbits(bits, bitorder="little")[: len(allowed)]
        allowed[: len(known)] = known
        return mx.where(mx.array(allowed), logits, -mx.inf)


class Grammars:
    """Makes constraints for one model; its tokenizer is read once."""

    def __init__(self, loaded: LoadedModel) -> None:
        from llguidance.hf import from_tokenizer

        wrapped: Any = loaded.tokenizer
        self.tokenizer = from_tokenizer(
            wrapped._tokenizer, eos_token=sorted(loaded.tokenizer.eos_token_ids)
        )

    def grammar(self, schema: Mapping[str, Any], form: Format) -> Grammar | None:
        """The grammar of a schema, as much of it as can be said; None if answers are to be
        checked alone.

        Raises:
            BadSchema: no answer can be of it, or it is too large.
        """
        strict = grammar_for(schema, form, lenient=False)
        if strict is None:
            return None
        if not self._refusal(strict):
            return Grammar(strict, complete=True)
        lenient = grammar_for(schema, form, lenient=True)
        refusal = self._refusal(lenient) if lenient else None
        if lenient is None or refusal:
            raise InvalidSchemaError(f"the schema can't be honoured: {refusal}")
        return Grammar(lenient, complete=False)

    def constraint(self, grammar: Grammar) -> Constraint:
        from llguidance import LLMatcher

        return Constraint(LLMatcher(self.tokenizer, grammar.text, log_level=0))

    def _refusal(self, grammar: str) -> str:
        """Why a grammar can't be used, in a line; empty if it can."""
        from llguidance import LLMatcher

        said = LLMatcher.validate_grammar(grammar, self.tokenizer)
        why = said.partition(COMPILING)[2] or said
        return " ".join(re.split(r"\n\s*\d+ \|", why)[0].split())
