"""A chat template says the same whatever the day, and leaves no instruction out.

Templates of Hugging Face models are not all made for what is asked of them here.
Some have no place for a system message: they drop it, or refuse the
conversation. Some write today's date, so that no two days have the same prompt.
Both are mended in the template's own text, by statements put before it, so that
training, evaluation, serving and every export have the same template.

A template that needs neither stays as it is, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from nanodistill.errors import ModelError
from nanodistill.run_dir import read_json

JINJA = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"

Place = Literal["own", "dropped", "refused"]
"""What a template does with a system message: it has a place for it, drops it, or refuses it."""

# The line break at the end belongs to the statement (`trim_blocks`): what follows is the start of
# a line, as it was.
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
"""The system message becomes the beginning of the first user turn."""

ASKS_THE_DATE = re.compile(r"\bstrftime_now\b")
GIVEN_DATES = re.compile(r"\b(date_string|current_date|todays_date)\b(?!['\"])")
"""Names under which programs such as llama.cpp give a template today's date of their own accord."""
DIRECTIVE = re.compile(r"%[-_0^#]?[aAbBcCdDeFgGhHIjklmMnpPrRSTuUVwWxXyYzZ]")
ASIDE = "\ue000"
FIXED = "{%- macro strftime_now(format='') -%}"

SYSTEM_MARK, USER_MARK = "qsystemq", "quserq"


def read_template(folder: Path) -> str:
    """The default chat template in `folder`.

    Raises:
        ModelError: there is none.
    """
    if (folder / JINJA).is_file():
        return (folder / JINJA).read_text(encoding="utf-8")
    held = read_json(folder / SETTINGS).get("chat_template")
    if isinstance(held, list):
        held = next((each["template"] for each in held if each["name"] == "default"), None)
    if not isinstance(held, str):
        raise ModelError(f"The tokenizer in {folder} has no chat template.")
    return held


def has_template(folder: Path) -> bool:
    if (folder / JINJA).is_file():
        return True
    settings = folder / SETTINGS
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def with_place_for_system(template: str, tokens: Mapping[str, Any]) -> str:
    """`template`, with the system message before the first user turn if it has no place for one.

    Args:
        tokens: special tokens that the template may name, by `bos_token` and so on.

    Raises:
        ModelError: the template has a syntax error.
    """
    if moves_system(template) or place_for_system(template, tokens) == "own":
        return template
    return SYSTEM_TO_USER + template


def moves_system(template: str) -> bool:
    """Whether the template has the statements that put a system message into the user's turn."""
    return SYSTEM_TO_USER in template


def place_for_system(template: str, tokens: Mapping[str, Any]) -> Place:
    """What the template does with a system message: "own" also where it can't be rendered at all,
    which whoever uses it is told.

    Raises:
        ModelError: the template has a syntax error.
    """
    from jinja2 import TemplateSyntaxError

    system = {"role": "system", "content": SYSTEM_MARK}
    user = {"role": "user", "content": USER_MARK}
    try:
        shown, alone = (_rendered(template, said, tokens) for said in ([system, user], [user]))
    except TemplateSyntaxError as wrong:
        raise ModelError(
            f"The student's chat template has a syntax error in line {wrong.lineno}: "
            f"{wrong.message}",
            next_step="Mend the template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), or take the model's files anew.",
        ) from wrong
    # One that does not show what the user says reads messages in a way of its own.
    if alone is None or USER_MARK not in alone:
        return "own"
    if shown is None:
        return "refused"
    return "own" if SYSTEM_MARK in shown else "dropped"


def _rendered(
    template: str, messages: list[dict[str, str]], tokens: Mapping[str, Any]
) -> str | None:
    """The text in small letters, as some templates change case; None where it is refused."""
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
    """Whether the template writes the date of the day on which it is used."""
    return FIXED not in template and ASKS_THE_DATE.search(template) is not None


def with_date(template: str, when: datetime) -> str:
    """`template` with `when` for the date, on whatever day it is used; as it is if it has none."""
    if not is_dated(template):
        return template
    asked = sorted(set(DIRECTIVE.findall(template)))
    said = {directive: when.strftime(directive) for directive in asked}
    if "%%" in template:  # set aside meanwhile: what follows it is no directive
        said = {"%%": ASIDE} | said | {ASIDE: "%"}
    swapped = "".join(f" | replace('{each}', '{said[each]}')" for each in said)
    return f"{FIXED}{{{{- format{swapped} -}}}}{{%- endmacro %}}\n{template}"


def without_given_date(template: str) -> str:
    """`template` deaf to a date that the program it runs in may give it (llama.cpp does)."""
    return GIVEN_DATES.sub(r"\1_of_training", template)
