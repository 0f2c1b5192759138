"""Chat templates: conversations become tokens, the same on any day.

`Chat` tokenizes conversations so that what users write stays text. A template renders
to one string, and a tokenizer takes `<|im_end|>` in that string for the end of a turn,
whoever wrote it. So where a message holds the text of a control token, it is marked
before the template sees it, and tokenized as the letters it consists of. All other
conversations take the tokenizer's usual way, to the token. Control tokens are the
special tokens and those that end an answer; in prompts also the other added tokens
that the template itself writes, such as turn markers. In an answer those stay tokens:
a model may write `<think>`. Text that no token stands for (`[INST]` where the tokenizer
spells it out) can't be told apart, and isn't.

The other functions repair a template's text by prepending statements to it, so that
training, evaluation, serving and every export render the same. Some templates have
no system role: they drop the message or raise. Some write today's date, so that no two
days have the same prompt. A template that needs neither repair stays as it is, to the
byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanodistill.errors import InputError, ModelError
from nanodistill.run_dir import read_json

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

# Characters without a meaning. Two that a conversation does not use mark what is text in it.
PRIVATE_USE = range(0xE000, 0xF900)

JINJA = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"

Place = Literal["own", "dropped", "refused"]
"""What a template does with a system message: renders, drops or rejects it."""

# Makes the system message the start of the first user turn. The line break at the end belongs to
# the statement (`trim_blocks`), so the template still begins at the start of a line.
SYSTEM_TO_USER = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- set instruction = messages[0]['content'] -%}"
    "{%- if messages | length > 1 and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': (instruction + '\\n\\n' if instruction "
    "else '') + messages[1]['content']}] + messages[2:] -%}"
    "{%- else -%}"
    "{%- set messages = [{'role': 'user', 'content': instruction}] + messages[1:] -%}"
    "{%- endif -%}"
    "{%- endif %}\n"
)
CALLS_THE_DATE = re.compile(r"\bstrftime_now\b")
# Names under which programs such as llama.cpp pass today's date to a template unasked.
DATE_VARIABLES = re.compile(r"\b(date_string|current_date|todays_date)\b(?!['\"])")
DIRECTIVE = re.compile(r"%[-_0^#]?[aAbBcCdDeFgGhHIjklmMnpPrRSTuUVwWxXyYzZ]")
PERCENT_PLACEHOLDER = "\ue000"
FIXED_DATE = "{%- macro strftime_now(format='') -%}"
SYSTEM_MARK, USER_MARK = "qsystemq", "quserq"
PROBE = (
    {"role": "system", "content": SYSTEM_MARK},
    {"role": "user", "content": USER_MARK},
    {"role": "assistant", "content": "qanswerq"},
    {"role": "user", "content": "qagainq"},
)


class Chat:
    """Tokenizes conversations for one model.

    Example:
        >>> Chat(tokenizer).tokens([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        added = {token.content: id for id, token in tokenizer.added_tokens_decoder.items()}
        kinds = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in kinds if token.special}
        ends = {text for text, id in added.items() if id in tokenizer.eos_token_ids}
        template = tokenizer.chat_template
        written = {text for text in added if isinstance(template, str) and text in template}
        markers = {text for text in written if not text.isspace() and not text.isalnum()}
        self._control_ids = {added[text] for text in special | ends | markers}
        self._in_answers = _any_of(special | ends)
        self._in_prompts = _any_of(special | ends | markers)

    def forged_turn(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """What a user says that the template writes, in plain text, where a turn begins."""
        said = (message["content"] for message in messages if message["role"] == "user")
        for content in said:
            if isinstance(content, str) and (found := self._turns.search(content)):
                return str(found[0]).strip()
        return None

    @cached_property
    def _turns(self) -> re.Pattern[str]:
        return re.compile("|".join(sorted(set(self._plain_turns()))) or r"(?!)", re.MULTILINE)

    def _plain_turns(self) -> Iterator[str]:
        """Patterns of the lines with which turns begin, where no control token is beside them."""
        rendered = self._rendered(PROBE) or self._rendered(PROBE[1:])
        if rendered is None:
            return
        begin = self._tokenizer.bos_token
        if begin and rendered.count(begin) == 1:  # more often, it begins each turn and guards it
            rendered = rendered.removeprefix(begin)
        contents = "|".join(message["content"] for message in PROBE)
        for between in re.split(contents, rendered):
            if between.strip() and self._in_prompts.search(between) is None:
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
        """Tokenize `messages` with the template.

        Args:
            options: those of `apply_chat_template`.

        Raises:
            InputError: the text of a control token can't be told from the token.
            jinja2.TemplateError: the template rejects the conversation.
        """
        if not any(self._has_control_text(message) for message in messages):
            tokens: list[int] = self._tokenizer.apply_chat_template(list(messages), **options)
            return tokens
        marks = _unused_characters(message["content"] for message in messages)
        marked = [self._mark(message, marks) for message in messages]
        rendered = self._tokenizer.apply_chat_template(marked, tokenize=False, **options)
        return self._encode_marked(rendered, marks)

    def answer_tokens(self, text: str) -> list[int]:
        """Tokenize an answer by itself.

        Raises:
            InputError: the text of a control token can't be told from the token.
        """
        if self._in_answers.search(text) is None:
            tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
            return tokens
        marks = _unused_characters([text])
        message = {"role": "assistant", "content": text}
        return self._encode_marked(self._mark(message, marks)["content"], marks)

    def _pattern(self, message: Mapping[str, Any]) -> re.Pattern[str]:
        return self._in_answers if message["role"] == "assistant" else self._in_prompts

    def _has_control_text(self, message: Mapping[str, Any]) -> bool:
        content = message.get("content")
        return isinstance(content, str) and self._pattern(message).search(content) is not None

    def _mark(self, message: Mapping[str, Any], marks: tuple[str, str]) -> dict[str, Any]:
        """`message` with `marks` around the text of control tokens."""
        content, (begin, end) = message.get("content"), marks
        if not isinstance(content, str):
            return dict(message)
        return {**message, "content": self._pattern(message).sub(rf"{begin}\g<0>{end}", content)}

    def _encode_marked(self, text: str, marks: tuple[str, str]) -> list[int]:
        """The tokens of a rendered text, with what is marked as plain text.

        A template may have separated two marks, as by `split`. A single one is dropped,
        and still splits the text.
        """
        begin, end = marks
        pieces = re.split(f"{begin}([^{begin}{end}]*){end}|[{begin}{end}]", text)
        tokens: list[int] = self._tokenizer.encode(pieces[0], add_special_tokens=False)
        for place, piece in enumerate(pieces[1:], start=1):
            if piece:
                tokens += self._spell(piece) if place % 2 else self._encode_inside(piece)
        return tokens

    def _spell(self, control: str) -> list[int]:
        """The text of a control token as other tokens: cut until the token is not recognized."""
        for pieces in ([control[:1], control[1:]], list(control)):
            tokens = [token for piece in pieces if piece for token in self._encode_inside(piece)]
            if self._control_ids.isdisjoint(tokens):
                return tokens
        raise InputError(
            f"A message contains {control!r}, which the model's tokenizer can only encode as its "
            "control token.",
            next_step="Remove it from the text, or write it in another way.",
        )

    def _encode_inside(self, text: str) -> list[int]:
        """The tokens of `text` in the middle of other text.

        SentencePiece puts a space before the first word of a text, so it is encoded after a line
        break, which is then removed.
        """
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
    """Matches any of `texts`, the longest first; nothing if there are none."""
    ordered = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _unused_characters(contents: Iterable[Any]) -> tuple[str, str]:
    used = {letter for content in contents if isinstance(content, str) for letter in content}
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
    return next(free), next(free)


def read_template(folder: Path) -> str:
    """The default chat template in `folder`.

    Raises:
        ModelError: there is none.
    """
    if (folder / JINJA).is_file():
        return (folder / JINJA).read_text(encoding="utf-8")
    template = read_json(folder / SETTINGS).get("chat_template")
    if isinstance(template, list):
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    if not isinstance(template, str):
        raise ModelError(f"The tokenizer in {folder} has no chat template.")
    return template


def has_template(folder: Path) -> bool:
    if (folder / JINJA).is_file():
        return True
    settings = folder / SETTINGS
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def with_place_for_system(template: str, tokens: Mapping[str, Any]) -> str:
    """`template`, changed to prepend the system message to the first user turn if it has no role.

    Args:
        tokens: special tokens that the template may name, such as `bos_token`.

    Raises:
        ModelError: the template has a syntax error.
    """
    if moves_system(template) or place_for_system(template, tokens) == "own":
        return template
    return SYSTEM_TO_USER + template


def moves_system(template: str) -> bool:
    """Whether the template was changed to prepend the system message to the user's turn."""
    return SYSTEM_TO_USER in template


def place_for_system(template: str, tokens: Mapping[str, Any]) -> Place:
    """What the template does with a system message.

    "own" also if it can't be rendered at all, which using it will report.

    Raises:
        ModelError: the template has a syntax error.
    """
    from jinja2 import TemplateSyntaxError

    system = {"role": "system", "content": SYSTEM_MARK}
    user = {"role": "user", "content": USER_MARK}
    try:
        both = _render(template, [system, user], tokens)
        alone = _render(template, [user], tokens)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"The student's chat template has a syntax error in line {error.lineno}: "
            f"{error.message}",
            next_step="Fix the template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), or download the model's files again.",
        ) from error
    # A template that doesn't even show the user's message reads messages in its own way.
    if alone is None or USER_MARK not in alone:
        return "own"
    if both is None:
        return "refused"
    return "own" if SYSTEM_MARK in both else "dropped"


def _render(template: str, messages: list[dict[str, str]], tokens: Mapping[str, Any]) -> str | None:
    """The text in lower case, because some templates change case; None if it raises."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        (text,), _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, **tokens
        )
    except TemplateSyntaxError:
        raise
    except (TemplateError, TypeError, KeyError, ValueError):
        return None
    return str(text).casefold()


def is_dated(template: str) -> bool:
    """Whether the template writes the date of the day it is used."""
    return FIXED_DATE not in template and CALLS_THE_DATE.search(template) is not None


def with_date(template: str, when: datetime) -> str:
    """`template` with `when` as its date on any day; unchanged if it writes no date."""
    if not is_dated(template):
        return template
    directives = sorted(set(DIRECTIVE.findall(template)))
    values = {directive: when.strftime(directive) for directive in directives}
    if "%%" in template:  # replaced first and last: what follows it is not a directive
        values = {"%%": PERCENT_PLACEHOLDER} | values | {PERCENT_PLACEHOLDER: "%"}
    filters = "".join(f" | replace('{each}', '{values[each]}')" for each in values)
    return f"{FIXED_DATE}{{{{- format{filters} -}}}}{{%- endmacro %}}\n{template}"


def without_given_date(template: str) -> str:
    """`template` without the date that a program such as llama.cpp would pass to it."""
    return DATE_VARIABLES.sub(r"\1_of_training", template)
