"""What a model's text says: its thinking and its output, or that it can't be read.

The dataset's thinking format takes the text apart, for every model alike. A
text that shows no sign of the format is taken whole as the output, so that an
untrained model is judged by what it answers, not by tags that it never saw.
Unreadable is a text

- that is empty, or has an empty output;
- that begins in the format and doesn't carry it through (thinking that never ends);
- that was cut off at `max_new_tokens` while still thinking, in whatever form.

A model's own `<think>` block at the beginning, as reasoning models write it,
is thinking under every format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from nanodistill.thinking import FORMATS, Format, has_thinking, resolve_format
from nanodistill.types import FinishReason

OUTPUT_ALONE = "none"
PLACE = "\ue000"
"""Stands for some thinking: a private-use character, which every format leaves as it is."""
OWN_THINKING = re.compile(r"\s*<think>(.*?)</think>(.*)\Z", re.DOTALL)
UNENDED = re.compile(r"\s*<think>")


def output_format(
    thinking_format: str, train_on: Literal["cot", "answer"], configured: Any = None
) -> Format:
    """The form in which answers come: the dataset's, unless outputs alone are trained on.

    Args:
        configured: the run file's format: where the dataset has a format of the user's own,
            its manifest names it without the folder that it lies in.
    """
    if train_on == "answer":
        return resolve_format(OUTPUT_ALONE)
    own = thinking_format not in FORMATS
    return resolve_format(configured if own and configured is not None else thinking_format)


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """`output` is None where the text can't be read."""

    thinking: str | None
    output: str | None


def parse_output(text: str, finish_reason: FinishReason, form: Format) -> ParsedOutput:
    """Take `text` apart by the thinking format `form`."""
    own = OWN_THINKING.match(text)
    thought, rest = (own[1].strip() or None, own[2]) if own else (None, text)
    thinking, output = form.parse(rest)
    cut_short = has_thinking(form) and thinking is None and finish_reason == "length"
    unended = own is None and UNENDED.match(text) is not None
    if not output or cut_short or unended or (thinking is None and _prompt_opening(form, rest)):
        return ParsedOutput(thinking or thought, None)
    return ParsedOutput(thinking or thought, output)


def _prompt_opening(form: Format, text: str) -> bool:
    """Whether `text` opens with the mark that the format puts before any thinking."""
    mark, _, _ = form.format(PLACE, "").partition(PLACE)
    mark = mark.strip()
    return bool(mark) and has_thinking(form) and text.lstrip().startswith(mark)
