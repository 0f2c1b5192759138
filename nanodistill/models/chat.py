"""Messages become tokens, and what is said in them stays text.

A chat template renders to one string, and a tokenizer takes `<|im_end|>` in that
string for the end of a turn, whoever wrote it. So where a message holds the
text of a control token, it is marked before the template sees it, and
what was marked is tokenized as the letters it consists of. All other
conversations take the tokenizer's usual way, to the token.

Control tokens are the tokenizer's special tokens and those that end an answer;
in what is asked also the other added tokens that the template writes itself, such
as marks of turns. In an answer these stay tokens: a model may write
`<think>`.

What no token stands for can't be told apart: `[/INST]` or `### Assistant:` where the
tokenizer spells it out reads the same whoever writes it. `forged_turn` finds such marks
in what a user says: training leaves those rows out, and the server refuses them. Marks
are found by rendering a conversation, so a line that is one only together with a control
token, or that the template writes under conditions, is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nanodistill.errors import InputError

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

PRIVATE_USE = range(0xE000, 0xF900)
"""Characters without a meaning: two that a conversation does not use mark what is text in it."""


PROBE = (
    {"role": "system", "content": "qsystemq"},
    {"role": "user", "content": "quserq"},
    {"role": "assistant", "content": "qanswerq"},
    {"role": "user", "content": "qagainq"},
)


class Chat:
    """Tokenizes conversations for one model."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        added = {token.content: id for id, token in tokenizer.added_tokens_decoder.items()}
        kinds = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in kinds if token.special}
        ends = {text for text, id in added.items() if id in tokenizer.eos_token_ids}
        template = tokenizer.chat_template
        written = {text for text in added if isinstance(template, str) and text in template}
        marks = {text for text in written if not text.isspace() and not text.isalnum()}
        self._ids = {added[text] for text in special | ends | marks}
        self._answered = _any_of(special | ends)
        self._asked = _any_of(special | ends | marks)

    def forged_turn(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """What a user says that the template writes, in plain text, where a turn begins."""
        said = (message["content"] for message in messages if message["role"] == "user")
        for content in said:
            if isinstance(content, str) and (found := self._turns.search(content)):
                return found[0].strip()
        return None

    @cached_property
    def _turns(self) -> re.Pattern[str]:
        return re.compile("|".join(sorted(set(self._plain_turns()))) or r"(?!)", re.MULTILINE)

    def _plain_turns(self) -> Iterator[str]:
        """Patterns of the lines with which turns begin, where no control token is beside them."""
        rendered = self._rendered(PROBE) or self._rendered(PROBE[1:])
        if rendered is None:
            return
        begin = self._tokenizer.bos_token or ""
        contents = "|".join(message["content"] for message in PROBE)
        for between in re.split(contents, rendered.removeprefix(begin)):
            if between.strip() and self._asked.search(between) is None:
                yield _turn_pattern(between)

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, KeyError, ValueError):
            return None
        return text

    def tokens(self, messages: Sequence[Mapping[str, Any]], **options: bool) -> list[int]:
        """The template's tokens for `messages`; `options` are those of `apply_chat_template`.

        Raises:
            InputError: a control token's text can't be told from the token.
            jinja2.TemplateError: the template refuses the conversation.
        """
        if not any(self._has_control(message) for message in messages):
            tokens: list[int] = self._tokenizer.apply_chat_template(list(messages), **options)
            return tokens
        marks = _unused(message["content"] for message in messages)
        marked = [self._marked(message, marks) for message in messages]
        rendered = self._tokenizer.apply_chat_template(marked, tokenize=False, **options)
        return self._encoded(rendered, marks)

    def answer_tokens(self, text: str) -> list[int]:
        """The tokens of an answer by itself.

        Raises:
            InputError: a control token's text can't be told from the token.
        """
        if self._answered.search(text) is None:
            tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
            return tokens
        marks = _unused([text])
        message = {"role": "assistant", "content": text}
        return self._encoded(self._marked(message, marks)["content"], marks)

    def _control(self, message: Mapping[str, Any]) -> re.Pattern[str]:
        return self._answered if message["role"] == "assistant" else self._asked

    def _has_control(self, message: Mapping[str, Any]) -> bool:
        content = message.get("content")
        return isinstance(content, str) and self._control(message).search(content) is not None

    def _marked(self, message: Mapping[str, Any], marks: tuple[str, str]) -> dict[str, Any]:
        content, (begin, end) = message.get("content"), marks
        if not isinstance(content, str):
            return dict(message)
        return {**message, "content": self._control(message).sub(rf"{begin}\g<0>{end}", content)}

    def _encoded(self, text: str, marks: tuple[str, str]) -> list[int]:
        """The tokens of a rendered text. A template may have parted two marks, as by `split`:
        one that stands alone is dropped, and still parts the text."""
        begin, end = marks
        pieces = re.split(f"{begin}([^{begin}{end}]*){end}|[{begin}{end}]", text)
        tokens: list[int] = self._tokenizer.encode(pieces[0], add_special_tokens=False)
        for place, piece in enumerate(pieces[1:], start=1):
            if piece:
                tokens += self._spelled(piece) if place % 2 else self._inside(piece)
        return tokens

    def _spelled(self, control: str) -> list[int]:
        """The text of a control token as other tokens: cut where the token is no more found."""
        for pieces in ([control[:1], control[1:]], list(control)):
            tokens = [token for piece in pieces if piece for token in self._inside(piece)]
            if self._ids.isdisjoint(tokens):
                return tokens
        raise InputError(
            f"A message holds {control!r}, which the model's tokenizer can only read as the "
            "control token of that name.",
            next_step="Take it out of the text, or write it in another way.",
        )

    def _inside(self, text: str) -> list[int]:
        """The tokens of `text` where other text is before it: SentencePiece puts a space before
        the first word of a text, so it is read behind a line break."""
        lead = self._tokenizer.encode("\n", add_special_tokens=False)
        whole: list[int] = self._tokenizer.encode(f"\n{text}", add_special_tokens=False)
        if whole[: len(lead)] == lead:
            return whole[len(lead) :]
        alone: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return alone


def _turn_pattern(between: str) -> str:
    """Finds the line that begins a turn, `between` two messages: at the start of a line where the
    template has it there, with any blanks in it, and not within a word."""
    *before, line = between.rstrip().split("\n")
    words = r"[ \t]+".join(map(re.escape, line.split()))
    left = r"^[ \t]*" if before else r"(?<!\w)" if line.lstrip()[0].isalnum() else ""
    right = r"(?!\w)" if line[-1].isalnum() else ""
    return f"{left}{words}{right}"


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of `texts`, the longest first."""
    ordered = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _unused(contents: Iterable[Any]) -> tuple[str, str]:
    used = {letter for content in contents if isinstance(content, str) for letter in content}
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
    return next(free), next(free)
