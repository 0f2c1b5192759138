"""How thinking and output stand in one text, and how they are read back.

A format is a pair of functions that belong together: `format` writes the
assistant's turn of a row, `parse` takes one apart, be it a row's, a teacher's
or a student's. Traces, training rows, evaluation and serving all use the same
object.

Promised: `parse(format(thinking, output)) == (thinking, output)` for every pair
that `round_trips` says yes to. That is the test a trace has to pass before it
becomes a row; one whose text holds the format's own marks (`</thinking>`, a
blank line for `plain`) fails it and is rejected as `unrenderable`.
Not promised: that a text which nobody wrote in the format has any thinking.
`parse` then gives None for it, and the whole text as the output.
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

# Models put words or a code fence before the form, change the case of its tags, and call them by
# the names they were trained with; servers cut off the opening tag of a reasoning model's thoughts.
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
    """A thinking format as the rest of the program uses it: thinking may be absent."""

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
        held = {"answer": output} if thinking is None else {"reasoning": thinking, "answer": output}
        return json.dumps(held, ensure_ascii=False)

    def parse(self, text: str) -> Parts:
        held = jsontext.find_object(text)
        if held is None or "answer" not in held:
            return None, text.strip()
        answer = held["answer"]
        output = answer.strip() if isinstance(answer, str) else canonical_json(answer)
        reasoning = held.get("reasoning")
        return (reasoning.strip() if isinstance(reasoning, str) else None), output


class Plain:
    """The thinking, a blank line, the output: the last paragraph is the output."""

    def format(self, thinking: str | None, output: str) -> str:
        return output if thinking is None else f"{thinking}\n\n{output}"

    def parse(self, text: str) -> Parts:
        thinking, blank, output = text.strip().rpartition("\n\n")
        return (thinking.strip(), output.strip()) if blank else (None, output.strip())


class NoThinking:
    """The output alone; thinking is left out."""

    def format(self, thinking: str | None, output: str) -> str:  # noqa: ARG002 - left out
        return output

    def parse(self, text: str) -> Parts:
        return None, text.strip()


@dataclass(frozen=True)
class CustomFormat:
    """A user's own format, which knows nothing of absent thinking or foreign texts."""

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
    """The format of that name, at `module:Class`, or around the given object or class.

    Raises:
        ConfigError: there is no such format, or it lacks `format` or `parse`.
    """
    if isinstance(chosen, str) and chosen in FORMATS:
        return FORMATS[chosen]
    found = load_object(chosen, field="thinking_format") if isinstance(chosen, str) else chosen
    own = instantiated(found, field="thinking_format")
    if not isinstance(own, ThinkingFormat):
        what = f"{type(own).__name__} lacks `format(thinking, output)` or `parse(response)`"
        raise ConfigError("The thinking format can't be used:", [Problem("thinking_format", what)])
    return CustomFormat(own)


def has_thinking(chosen: Format) -> bool:
    """Whether rows in this format have any thinking."""
    return not isinstance(chosen, NoThinking)


def round_trips(
    chosen: Format, thinking: str | None, output: str, *, ends_count: bool = True
) -> bool:
    """Whether what the format writes of this pair reads back the same.

    Args:
        ends_count: whether white space at the ends does. A user's own text keeps it; formats
            read without it, and so does the evaluation.
    """
    if not has_thinking(chosen):
        thinking = None
    if not ends_count:
        thinking, output = thinking and thinking.strip(), output.strip()
    return chosen.parse(chosen.format(thinking, output)) == (thinking, output)


def without_tags(thinking: str) -> str:
    """Thinking without the tags of the `xml` format, which would end it too early."""
    return TAG.sub("", thinking).strip()


def _split_at(form: re.Pattern[str], text: str) -> Parts | None:
    """Thinking and output where `form` stands in `text`; what stands before it is left out.

    A model that answers first and explains afterwards leaves no text behind its thinking: then
    what stands before is the output.
    """
    found = form.match(text)
    if found is None:
        return None
    before, output = found["before"], found["output"]
    if FENCE_OPENED.search(before):
        before, output = FENCE_OPENED.sub("", before), FENCE_CLOSED.sub("", output)
    return found["thinking"].strip(), output.strip() or before.strip()
