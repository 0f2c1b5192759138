"""Answers that follow a JSON schema.

A schema becomes a grammar, with thinking before the answer if the format has any.
llguidance tracks the grammar's state and tells which tokens of the vocabulary may
come next; the logits of all others become minus infinity before sampling.

What a grammar can't express is left out of it; the answer is then checked against
the schema and sampled again a few times. A schema is honoured or refused, never
ignored.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from referencing.exceptions import Unresolvable

from nanodistill.serve.reasoning_parser import delimiters_of
from nanodistill.thinking import FORMATS, has_thinking

if TYPE_CHECKING:
    import mlx.core as mx
    from llguidance import LLMatcher

    from nanodistill.models.loading import LoadedModel
    from nanodistill.thinking import Format

CHECK_COMMAND = [
    sys.executable,
    "-c",
    "from nanodistill.serve.guided_decoding import check_from_stdin; check_from_stdin()",
]
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
# JSON as datasets hold it: on one line, with or without single spaces. A small model that may
# write more white space writes little else.
ONE_LINE: Mapping[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ",[ ]?",
    "key_separator": ":[ ]?",
}
# Levels and values of a schema, far more than one written by hand has. jsonschema and llguidance
# recurse over levels, and a client must not find the depth at which they fail.
MAX_LEVELS, MAX_VALUES = 60, 10_000
COMPILER_PREFIX = "failed to compile JSON schema: "


class InvalidSchemaError(ValueError):
    """A schema that is invalid, too large, impossible, or refers to something outside itself."""


class GrammarError(RuntimeError):
    """A grammar that grew too large while it was followed, or leads to no answer."""

    def __init__(self, message: str) -> None:
        super().__init__((message.strip().splitlines() or ["no answer is possible"])[0])


@dataclass(frozen=True)
class Grammar:
    """A grammar for llguidance. If `complete`, an answer that follows it needs no check."""

    text: str
    complete: bool


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check that `schema` is a JSON schema of a reasonable size that refers only to itself.

    Raises:
        InvalidSchemaError: it is not.
    """
    from jsonschema import Draft202012Validator, SchemaError

    # Level by level, because recursion would fail on the schemas that this refuses.
    level: list[Any] = [schema]
    levels = values = 0
    while level:
        levels, values = levels + 1, values + len(level)
        if levels > MAX_LEVELS or values > MAX_VALUES:
            raise InvalidSchemaError(
                f"the schema is too large; the limits are {MAX_LEVELS} levels and "
                f"{MAX_VALUES} values"
            )
        level = [
            child
            for value in level
            if isinstance(value, Mapping | list)
            for child in (value.values() if isinstance(value, Mapping) else value)
        ]
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidSchemaError(f"invalid JSON schema: {error.message}") from error
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise InvalidSchemaError(
                f"the schema refers to {reference}; only references inside it are followed"
            )


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for child in value.values():
            yield from _references(child)
    elif isinstance(value, list):
        for child in value:
            yield from _references(child)


def schema_violation(content: str, schema: Mapping[str, Any]) -> str | None:
    """The first violation of `schema` by an answer, None if there is none."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        value = json.loads(content)
    except ValueError as error:
        return f"not JSON: {error}"
    empty: Any = Registry()  # so that no reference is fetched
    violations = Draft202012Validator(schema, registry=empty).iter_errors(value)
    return next((f"{each.json_path}: {each.message}" for each in violations), None)


async def schema_violation_isolated(
    content: str, schema: Mapping[str, Any], seconds: float
) -> str | None:
    """`schema_violation` in a process that is killed after `seconds`.

    A client's `pattern` can keep Python's regular expressions busy for years, while nothing else
    in this process runs.

    Raises:
        InvalidSchemaError: the check took too long, or the schema can't be evaluated.
    """
    request = json.dumps([content, schema]).encode()
    try:
        with anyio.fail_after(seconds):
            done = await anyio.run_process(
                CHECK_COMMAND, input=request, stderr=None, start_new_session=True
            )
    except TimeoutError as error:
        raise InvalidSchemaError(
            f"checking an answer against the schema takes over {seconds:g} s"
        ) from error
    result = json.loads(done.stdout)
    if result["invalid_schema"] is not None:
        raise InvalidSchemaError(result["invalid_schema"])
    violation: str | None = result["violation"]
    return violation


def check_from_stdin() -> None:
    """The process of `schema_violation_isolated`: reads content and schema, prints the result."""
    content, schema = json.load(sys.stdin)
    violation = invalid_schema = None
    try:
        violation = schema_violation(content, schema)
    except RecursionError:
        invalid_schema = "the schema refers to itself without end"
    except re.error as error:
        invalid_schema = f"invalid pattern in the schema: {error}"
    except Unresolvable as error:
        invalid_schema = f"unresolvable reference in the schema: {error}"
    sys.stdout.write(json.dumps({"violation": violation, "invalid_schema": invalid_schema}))


def grammar_for(schema: Mapping[str, Any], thinking_format: Format, *, lenient: bool) -> str | None:
    """The grammar of an answer in `thinking_format` whose content follows `schema`.

    `lenient` leaves out what llguidance can't express. None if no grammar can describe the
    format's text.

    Format: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
    """
    if thinking_format is FORMATS["json"]:
        # References begin at the root, so definitions move up with the schema.
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        schema = {
            "type": "object",
            "properties": {"reasoning": {"type": "string"}, "answer": dict(schema)},
            "required": ["answer"],
            "additionalProperties": False,
            **shared,
        }
    guidance = {**ONE_LINE, "lenient": lenient}
    answer = f"answer: %json {json.dumps({**schema, 'x-guidance': guidance})}\n"
    if thinking_format is FORMATS["json"] or not has_thinking(thinking_format):
        return f"start: answer\n{answer}"
    delimiters = delimiters_of(thinking_format)
    if delimiters is None or not delimiters.can_stream:
        return None
    # Thinking ends with the first end tag.
    tag = delimiters.between.strip()
    lead, _, tail = delimiters.between.partition(tag)
    thought = (
        f"thought: {json.dumps(delimiters.before)} inside {json.dumps(tail)}\n"
        f"inside[suffix={json.dumps(lead + tag)}]: /(?s:.*)/\n"
    ).replace(' ""\n', "\n")
    return f"start: thought answer | answer\n{thought}{answer}"


class GrammarProcessor:
    """A logits processor that follows a grammar, for one request."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._seen: int | None = None  # tokens so far; None before the prompt is known

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        import mlx.core as mx
        import numpy as np

        if self._seen is not None:
            sampled: Any = tokens[self._seen :].tolist()
            for token in sampled:
                if not self._matcher.consume_token(token):
                    raise GrammarError(self._matcher.get_error())
        self._seen = len(tokens)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())
        # Logits may be padded beyond the vocabulary.
        allowed = np.zeros(logits.shape[-1], dtype=bool)
        known = np.unpackbits(bits, bitorder="little")[: len(allowed)]
        allowed[: len(known)] = known
        return mx.where(mx.array(allowed), logits, -mx.inf)


class Grammars:
    """Compiles grammars for one model. Its tokenizer is converted once."""

    def __init__(self, loaded: LoadedModel) -> None:
        from llguidance.hf import from_tokenizer

        wrapped: Any = loaded.tokenizer
        self.tokenizer = from_tokenizer(
            wrapped._tokenizer, eos_token=sorted(loaded.tokenizer.eos_token_ids)
        )

    def grammar(self, schema: Mapping[str, Any], thinking_format: Format) -> Grammar | None:
        """As much of the schema as a grammar can express; None if only a check can follow it.

        Raises:
            InvalidSchemaError: no answer can follow the schema, or it is too large.
        """
        strict = grammar_for(schema, thinking_format, lenient=False)
        if strict is None:
            return None
        if not self._error(strict):
            return Grammar(strict, complete=True)
        lenient = grammar_for(schema, thinking_format, lenient=True)
        error = self._error(lenient) if lenient else None
        if lenient is None or error:
            raise InvalidSchemaError(f"the schema can't be followed: {error}")
        return Grammar(lenient, complete=False)

    def processor(self, grammar: Grammar) -> GrammarProcessor:
        from llguidance import LLMatcher

        return GrammarProcessor(LLMatcher(self.tokenizer, grammar.text, log_level=0))

    def _error(self, grammar: str) -> str:
        """Why a grammar can't be used, in one line; empty if it can."""
        from llguidance import LLMatcher

        message = LLMatcher.validate_grammar(grammar, self.tokenizer)
        reason = message.partition(COMPILER_PREFIX)[2] or message
        # Without the numbered listing of the grammar that follows.
        return " ".join(re.split(r"\n\s*\d+ \|", reason)[0].split())
