'''A Modelfile beside a GGUF file: an Ollama model that is asked as it was trained.

Ollama has its own template language. We find the template by rendering the student's chat template
with marks in place of the contents and taking what stands between them. It has to give the same
text for one turn, which is what the student was trained on; whether it does for two is checked and
told. Parameters are those of the evaluation: greedy, no repetition penalty (Ollama's default has
one), the same length of answer.

    FROM ./NAME.gguf
    TEMPLATE """{{ if .System }}…{{ .System }}…{{ end }}…{{ .Prompt }}…{{ .Response }}…"""
    SYSTEM """…"""
    PARAMETER temperature 0
'''

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.errors import InputError, ModelError
from nanodistill.exporting.tokenizer_export import adds_bos, end_tokens, special_tokens
from nanodistill.models.chat_templates import read_template

SYSTEM, PROMPT, RESPONSE, SECOND = "@@system@@", "@@prompt@@", "@@response@@", "@@second@@"
QUOTES = '"""'
GO_SAID = {"{{": '{{ "{{" }}', '"': '{{ `"` }}'}
GO_QUOTED = re.compile('{{|"')
"""What begins an action of a Go template, and what may end a Modelfile's text."""
SMALLEST_CONTEXT = 2048

Turns = Sequence[tuple[str, str]]
FIRST_TURN: Turns = (("system", SYSTEM), ("user", PROMPT))
TWO_TURNS: Turns = (*FIRST_TURN, ("assistant", RESPONSE), ("user", SECOND))
MARKS = (SYSTEM, PROMPT, RESPONSE, SECOND)
NOT_ALIKE: Turns = (
    ("system", 'Say "a" or\n\\b, <c> & {d}.'),
    ("user", "It's `x`\n\n{{ y }} \u00e9"),
)
"""Contents that a template which quotes, escapes or rewrites them writes otherwise."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template and the special tokens that it may name.

    `ends` are the texts that end an answer. `adds_bos` says whether the tokenizer
    puts the BOS token before any text by itself; then Ollama does, too.
    """

    jinja: str
    tokens: Mapping[str, str]
    ends: tuple[str, ...]
    adds_bos: bool

    def render(self, turns: Turns) -> str:
        """The prompt of these turns.

        Raises:
            ModelError: the template takes no such turns.
        """
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            (text,), _ = render_jinja_template(
                [messages], chat_template=self.jinja, add_generation_prompt=True, **self.tokens
            )
        except TemplateError as refused:
            raise ModelError(f"The chat template takes no such turns: {refused}") from refused
        bos = self.tokens.get("bos_token", "")
        shown = str(text)
        return shown.removeprefix(bos) if self.adds_bos else shown


def chat_template(folder: Path, config: Mapping[str, Any]) -> ChatTemplate:
    """The chat template of the model in `folder`, whose config.json is `config`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = end_tokens(tokenizer, folder, config)
    return ChatTemplate(
        jinja=read_template(folder),
        tokens=special_tokens(folder),
        ends=tuple(str(tokenizer.id_to_token(end)) for end in ends),
        adds_bos=adds_bos(tokenizer, folder),
    )


@dataclass(frozen=True)
class Pieces:
    """What stands around the contents of a turn."""

    before_system: str
    after_system: str
    before_prompt: str
    after_prompt: str
    after_response: str

    def render(self, turns: Turns) -> str:
        """What Ollama makes of these turns with `go_template`."""
        text = ""
        for role, content in turns:
            if role == "system":
                text += self.before_system + content + self.after_system
            elif role == "user":
                text += self.before_prompt + content + self.after_prompt
            else:
                text += content + self.after_response
        return text

    def go_template(self) -> str:
        return (
            f"{{{{ if .System }}}}{_go(self.before_system)}{{{{ .System }}}}"
            f"{_go(self.after_system)}{{{{ end }}}}"
            f"{_go(self.before_prompt)}{{{{ .Prompt }}}}{_go(self.after_prompt)}"
            f"{{{{ .Response }}}}{_go(self.after_response)}"
        )


def pieces_of(template: ChatTemplate) -> Pieces:
    """Take the template apart.

    Raises:
        ModelError: it does not put system, prompt and response one after the other, or does not
            write them as they are.
    """
    before_system, between, after_prompt = _split(template.render(FIRST_TURN), SYSTEM, PROMPT)
    after_response, before_prompt = "".join(template.ends[:1]), ""
    whole = template.render(TWO_TURNS)
    if all(mark in whole for mark in (RESPONSE, SECOND)):
        between_turns = whole.partition(RESPONSE)[2].partition(SECOND)[0]
        # One that writes a message anew between later turns can be said for the first turn alone.
        if not any(mark in between_turns for mark in MARKS):
            after_response, before_prompt = _turn_border(between_turns, between, template.ends)
    pieces = Pieces(
        before_system=before_system,
        after_system=between.removesuffix(before_prompt),
        before_prompt=before_prompt,
        after_prompt=after_prompt,
        after_response=after_response,
    )
    _check(pieces, template)
    return pieces


def _check(pieces: Pieces, template: ChatTemplate) -> None:
    """Raises ModelError unless `pieces` say the first turn, and nothing but the template's text."""
    marked = any(mark in piece for mark in MARKS for piece in vars(pieces).values())
    if marked or pieces.render(NOT_ALIKE) != template.render(NOT_ALIKE):
        raise ModelError(
            "The chat template does more with the system message and the input than to write each "
            "once, as it is, which Ollama's template language can't say.",
            next_step="Export with --to gguf: llama.cpp reads the chat template itself.",
        )


def _split(text: str, *marks: str) -> list[str]:
    """What stands before, between and after the marks."""
    found: list[str] = []
    for mark in marks:
        before, there, text = text.partition(mark)
        if not there:
            raise ModelError("The chat template leaves out the system message or the input.")
        found.append(before)
    return [*found, text]


def _turn_border(between: str, after_system: str, ends: Sequence[str]) -> tuple[str, str]:
    """Where a response's end stops and the next turn begins, in the text between the two.

    The next turn begins with what the first prompt has before it, too; where the
    end of a system message and of a response are written alike, behind that.
    """
    common = 0
    while common < min(len(between), len(after_system)) and (
        between[-common - 1] == after_system[-common - 1]
    ):
        common += 1
    start = len(between) - common
    for end in ends:
        at = between.rfind(end, start)
        if at >= 0:
            behind = between[at + len(end) :]
            start = len(between) - len(behind.lstrip())
    return between[:start], between[start:]


def _go(text: str) -> str:
    """Literal text of a Go template."""
    return GO_QUOTED.sub(lambda found: GO_SAID[found[0]], text)


def context_length(longest: int, max_new_tokens: int, limit: int) -> int:
    """A context that holds the longest row and a whole answer, in powers of two."""
    size = SMALLEST_CONTEXT
    while size < longest + max_new_tokens:
        size *= 2
    return min(size, limit)


def modelfile(
    file: str, pieces: Pieces, instruction: str, ends: Sequence[str], parameters: Mapping[str, Any]
) -> str:
    """The Modelfile's text.

    Raises:
        InputError: the instruction can't be written in one.
    """
    if QUOTES in instruction:
        raise InputError(
            f"The instruction holds {QUOTES}, which a Modelfile can't hold.",
            next_step="Export with --to gguf, or word the instruction without them.",
        )
    stops = "".join(f'PARAMETER stop "{end}"\n' for end in ends)
    settings = "".join(f"PARAMETER {name} {value}\n" for name, value in parameters.items())
    return (
        f"FROM ./{file}\n"
        f"TEMPLATE {QUOTES}{pieces.go_template()}{QUOTES}\n"
        f"SYSTEM {QUOTES}{instruction}{QUOTES}\n"
        f"{settings}{stops}"
    )
