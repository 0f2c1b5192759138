"""The chat template of a folder, and the instruction put into it.

With the instruction baked in, a conversation that brings no system message of
its own begins with the one that the student was trained on. The template's own
text stays as it is, behind two statements of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanodistill.errors import ModelError
from nanodistill.runfolder import read_json, write_json

JINJA = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"


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
    baked = with_instruction(read_template(folder), instruction)
    if (folder / JINJA).is_file():
        (folder / JINJA).write_text(baked, encoding="utf-8")
        return
    settings = read_json(folder / SETTINGS)
    write_json(folder / SETTINGS, settings | {"chat_template": _swapped(settings, baked)})


def _swapped(settings: dict[str, Any], baked: str) -> Any:
    held = settings["chat_template"]
    if isinstance(held, str):
        return baked
    return [each | {"template": baked} if each["name"] == "default" else each for each in held]


def _literal(text: str) -> str:
    """A string of Jinja, which reads backslashes as JSON does; other letters as they are."""
    return json.dumps(text, ensure_ascii=False)
