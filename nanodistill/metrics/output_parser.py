"""From a model's text to its thinking and output.

The dataset's thinking format parses the text of every model. A text without any
sign of the format is all output, so that an untrained model is scored by its
answer, not by tags that it never saw. Unreadable is a text that

- is empty, or has an empty output;
- begins in the format and does not complete it (thinking that never ends);
- was cut off at `max_new_tokens` while still thinking, in whatever form.

A leading `<think>` block, as reasoning models write it, is thinking under every
format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from nanodistill.thinking import FORMATS, Format, has_thinking, resolve_format
from nanodistill.types import FinishReason

# Stands for thinking where only a format's marks are wanted: a private-use character, which
# every format copies unchanged.
PLACEHOLDER = "\ue000"
THINK_BLOCK = re.compile(r"\s*<think>(.*?)</think>(.*)\Z", re.DOTALL)
OPEN_THINK_BLOCK = re.compile(r"\s*<think>")


def output_format(
    thinking_format: str, train_on: Literal["cot", "answer"], configured: Any = None
) -> Format:
    """The format of a model's texts: the dataset's, or none if it was trained on answers alone.

    Args:
        thinking_format: the dataset's, as its manifest names it.
        configured: the run file's. It stands in for a custom format of the dataset, which the
            manifest names without the folder of its module.
    """
    if train_on == "answer":
        return resolve_format("none")
    is_custom = thinking_format not in FORMATS
    return resolve_format(configured if is_custom and configured is not None else thinking_format)


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """`output` is None if the text is unreadable."""

    thinking: str | None
    output: str | None


def parse_output(text: str, finish_reason: FinishReason, thinking_format: Format) -> ParsedOutput:
    """Split `text` by the thinking format."""
    block = THINK_BLOCK.match(text)
    own_thinking, rest = (block[1].strip() or None, block[2]) if block else (None, text)
    thinking, output = thinking_format.parse(rest)
    formats_thinking = has_thinking(thinking_format)
    cut_off = formats_thinking and thinking is None and finish_reason == "length"
    never_ended = block is None and OPEN_THINK_BLOCK.match(text) is not None
    incomplete = formats_thinking and thinking is None and _begins(rest, thinking_format)
    is_unreadable = not output or cut_off or never_ended or incomplete
    return ParsedOutput(thinking or own_thinking, None if is_unreadable else output)


def _begins(text: str, thinking_format: Format) -> bool:
    """Whether `text` begins with the mark that the format writes before thinking."""
    opening = thinking_format.format(PLACEHOLDER, "").partition(PLACEHOLDER)[0].strip()
    return bool(opening) and text.lstrip().startswith(opening)
