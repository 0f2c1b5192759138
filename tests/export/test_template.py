"""The instruction in the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import TEMPLATE
from transformers.utils.chat_template_utils import render_jinja_template

from nanodistill.errors import ModelError
from nanodistill.exporting.tokenizer_export import bake, with_instruction
from nanodistill.models.chat_templates import read_template

NASTY = "Say \"yes\"\\no {{ x }} {% y %} %} é\n'''and 😀\ttabs"


def rendered(template: str, *turns: tuple[str, str]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    (text,), _ = render_jinja_template([messages], chat_template=template)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("instruction", ["Sort it.", NASTY])
def test_a_conversation_without_system_message_gets_the_instruction(instruction: str) -> None:
    baked = with_instruction(TEMPLATE, instruction)
    asked = ("user", "hello")
    assert rendered(baked, asked) == rendered(TEMPLATE, ("system", instruction), asked)
    own = (("system", "Another."), asked)
    assert rendered(baked, *own) == rendered(TEMPLATE, *own)


@pytest.mark.parametrize(
    "held",
    [TEMPLATE, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]],
)
def test_baking_into_a_folder(held: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": held, "a": 1}))
    bake(tmp_path, "Sort it.")
    assert read_template(tmp_path) == with_instruction(TEMPLATE, "Sort it.")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["a"] == 1
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    bake(tmp_path, "Other.")
    assert read_template(tmp_path) == with_instruction(TEMPLATE, "Other.")


def test_no_template(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no chat template"):
        read_template(tmp_path)
