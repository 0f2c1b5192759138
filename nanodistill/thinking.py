"""How thinking and output are written in one text, and parsed again.

A format is a pair of functions: `format` writes the assistant's turn of a row, `parse`
splits one, whether from a row, a teacher or a student. Traces, training rows,
evaluation and serving all use the same object.

`parse(format(thinking, output)) == (thinking, output)` holds for every pair that
`round_trips` accepts. A trace must pass that test before it becomes a row; one whose
text contains the format's own markers (`</thinking>`, a blank line for `plain`) fails
and is rejected as `unrenderable`. A text that nobody wrote in the format may have no
thinking: `parse` then returns None for it, and the whole text as the output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nanodistill import jsontext
from nanodistill.errors import ConfigError, Problem
from nanodistill.plugins import ThinkingFormat, instantiated, load_object, user_code
from nanodistill.types import canonical_json

Parts = tuple[str | None, str]

# Models write words or a code fence before the tags, change their case, and use the tags they were
# trained with. Servers cut off the opening tag of a reasoning model's thinking.
THOUGHT = re.compile(
    r"(?P<before>.*?)<think(?:ing)?>(?P<thinking>.*?)</think(?:ing)?>(?P<output>.*)\Z",
    re.DOTALL | re.IGNORECASE,
)
UNOPENED_THOUGHT = re.compile(
    r"(?P<before>)(?P<thinking>.*?)</think(?:ing)?>(?P<output>.*)\Z", re.DOTALL | re.IGNORECASE
)
HEADINGS = re.compile(
    r"(?P<before>.*?)(?:\*\*thinking:?\*\*:?|^\#+[ \t]*thinking:?[ \t]*$)(?P<thinking>.*?)"
    r"(?:\*\*output:?\*\*:?|^\#+[ \t]*output:?[ \t]*$)(?P<output>.*)\Z",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
FENCE_OPENED = re.compile(r"```\w*[ \t]*\n?\s*\Z")
FENCE_CLOSED = re.compile(r"\s*```\s*\Z")
TAG = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)


class Format(Protocol):
    """A thinking format as the rest of the program uses it: thinking may be None."""

    def format(self, thinking: str | None, output: str) -> str: ...

    def parse(self, text: str) -> Parts: ...


class Xml:
    """`<thinking>` tags, then the output."""

    def format(self, thinking: str | None, output: str) -> str:
        return output if thinking is None else f"<thinking>\n{thinking}\n</thinking>\n\n{output}"

    def parse(self, text: str) -> Parts:
        return _split_at(THOUGHT, text) or _split_at(UNOPENED_THOUGHT, text) or (None, text.strip())


class Markdown:
    """Two bold headings."""

    def format(self, thinking: str | None, output: str) -> str:
        return output if thinking is None else f"**Thinking:**\n{thinking}\n\n**Output:**\n{output}"

    def parse(self, text: str) -> Parts:
        return _split_at(HEADINGS, text) or (None, text.strip())


class Json:
    """One JSON object with `reasoning` and `answer`."""

    def format(self, thinking: str | None, output: str) -> str:
        value = {"answer": output}
        if thinking is not None:
            value = {"reasoning": thinking} | value
        return json.dumps(value, ensure_ascii=False)

    def parse(self, text: str) -> Parts:
        value = jsontext.find_object(text)
        if value is None or "answer" not in value:
            return None, text.strip()
        answer = value["answer"]
        output = answer.strip() if isinstance(answer, str) else canonical_json(answer)
        reasoning = value.get("reasoning")
        return (reasoning.strip() if isinstance(reasoning, str) else None), output


class Plain:
    """The thinking, a blank line, and the output, which is the last paragraph."""

    def format(self, thinking: str | None, output: str) -> str:
        return output if thinking is None else f"{thinking}\n\n{output}"

    def parse(self, text: str) -> Parts:
        thinking, blank, output = text.strip().rpartition("\n\n")
        return (thinking.strip(), output.strip()) if blank else (None, output.strip())


class NoThinking:
    """Only the output."""

    def format(self, thinking: str | None, output: str) -> str:  # noqa: ARG002 - not written
        return output

    def parse(self, text: str) -> Parts:
        return None, text.strip()


@dataclass(frozen=True)
class CustomFormat:
    """A user's own format, which need not handle missing thinking or other texts."""

    own: ThinkingFormat

    def format(self, thinking: str | None, output: str) -> str:
        if thinking is None:
            return output
        with user_code("the thinking format"):
            return self.own.format(thinking, output)

    def parse(self, text: str) -> Parts:
        with user_code("the thinking format"):
            try:
                return self.own.parse(text)
            except (ValueError, LookupError, TypeError, AttributeError):
                return None, text.strip()


FORMATS: Mapping[str, Format] = {
    "xml": Xml(),
    "markdown": Markdown(),
    "json": Json(),
    "plain": Plain(),
    "none": NoThinking(),
}


def resolve_format(chosen: str | Any) -> Format:
    """The format for a name, a `module:Class` reference, or an object or class of the user's.

    Raises:
        ConfigError: there is no such format, or it lacks `format` or `parse`.
    """
    if isinstance(chosen, str) and chosen in FORMATS:
        return FORMATS[chosen]
    loaded = load_object(chosen, field="thinking_format") if isinstance(chosen, str) else chosen
    own = instantiated(loaded, field="thinking_format")
    if not isinstance(own, ThinkingFormat):
        problem = f"{type(own).__name__} lacks `format(thinking, output)` or `parse(response)`"
        raise ConfigError("Invalid thinking format:", [Problem("thinking_format", problem)])
    return CustomFormat(own)


def has_thinking(chosen: Format) -> bool:
    """Whether rows in this format have thinking."""
    return not isinstance(chosen, NoThinking)


def round_trips(
    chosen: Format, thinking: str | None, output: str, *, ends_count: bool = True
) -> bool:
    """Whether the format parses what it writes of this pair.

    Args:
        ends_count: whether white space at the ends has to survive. A user's own text keeps it,
            while formats and the evaluation read without it.
    """
    if not has_thinking(chosen):
        thinking = None
    if not ends_count:
        thinking, output = thinking and thinking.strip(), output.strip()
    return chosen.parse(chosen.format(thinking, output)) == (thinking, output)


def without_tags(thinking: str) -> str:
    """Thinking without the tags of the `xml` format, which would end it early."""
    return TAG.sub("", thinking).strip()


def _split_at(pattern: re.Pattern[str], text: str) -> Parts | None:
    """Thinking and output of `text`, dropping what comes before; None if there is no match.

    A model that answers first and explains afterwards has no text after its thinking. Then what
    comes before is the output.
    """
    match = pattern.match(text)
    if match is None:
        return None
    before, output = match["before"], match["output"]
    if FENCE_OPENED.search(before):
        before, output = FENCE_OPENED.sub("", before), FENCE_CLOSED.sub("", output)
    return match["thinking"].strip(), output.strip() or before.strip()
