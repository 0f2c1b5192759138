"""The chat template of a folder, and the instruction put into it.

With the instruction baked in, a conversation that brings no system message of
its own begins with the one that the student was trained on. The template's own
text stays as it is, behind two statements of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanodistill.models.templates import JINJA, SETTINGS, read_template
from nanodistill.runfolder import read_json, write_json


def with_instruction(template: str, instruction: str) -> str:
    """`template` with `instruction` as the system message of conversations that have none."""
    message = f"{{'role': 'system', 'content': {_literal(instruction)}}}"
    return (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{message}] + messages -%}}"
        "{%- endif -%}" + template
    )


def bake(folder: Path, instruction: str) -> None:
    """Put `instruction` into the chat template of `folder`."""
    put_template(folder, with_instruction(read_template(folder), instruction))


def put_template(folder: Path, template: str) -> None:
    """Make `template` the default one of `folder`, where the one before it lies."""
    if (folder / JINJA).is_file():
        (folder / JINJA).write_text(template, encoding="utf-8")
        return
    settings = read_json(folder / SETTINGS)
    write_json(folder / SETTINGS, settings | {"chat_template": _swapped(settings, template)})


def _swapped(settings: dict[str, Any], baked: str) -> Any:
    held = settings["chat_template"]
    if isinstance(held, str):
        return baked
    return [each | {"template": baked} if each["name"] == "default" else each for each in held]


def _literal(text: str) -> str:
    """A string of Jinja, which reads backslashes as JSON does; other letters as they are."""
    return json.dumps(text, ensure_ascii=False)
