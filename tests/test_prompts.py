"""Templates: ours, the user's in their place, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.config import PromptTemplates
from nanodistill.errors import ConfigError
from nanodistill.prompts import FRAMES, STYLES, make_prompts


def test_a_text_without_placeholders_takes_the_place_of_our_style() -> None:
    prompts = make_prompts(PromptTemplates(cot_system='Think like {"a": judge}.'))
    said = prompts.render("cot_system", instruction="Sort it.", answer_form="In one word.")
    assert said == 'Think like {"a": judge}.\n\nThe task:\nSort it.\n\nIn one word.'


def test_a_text_with_placeholders_says_everything_itself() -> None:
    prompts = make_prompts(PromptTemplates(cot_system="{answer_form} Now: {instruction}"))
    assert prompts.render("cot_system", instruction="A", answer_form="B {instruction}") == (
        "B {instruction} Now: A"
    )


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cot.md"
    path.write_text("Think.\n")
    prompts = make_prompts(PromptTemplates(cot_system=str(path)))
    assert prompts.templates["cot_system"].startswith("Think.\n\nThe task:")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{instruction}", "lacks the placeholder {answer_form}"),
        ("{instruction} {answer_form} {label}", "unknown placeholder {label}"),
        ("", "is empty"),
        ("no/such/prompt.md", "can't be read"),
    ],
)
def test_what_is_wrong_with_a_template_is_said(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match="custom_cot_system_prompt") as refused:
        make_prompts(PromptTemplates(cot_system=template))
    assert says in str(refused.value)


def test_in_chat_a_template_with_the_label_is_the_turn_and_one_without_the_system_message() -> None:
    ours = make_prompts(PromptTemplates(), chat=True)
    assert ours.render("chat_generation_turn", label="spam") == "Write a new example of spam."
    turn = make_prompts(PromptTemplates(synthetic_generation_system="A {label}!"), chat=True)
    assert turn.render("chat_generation_turn", label="spam") == "A spam!"
    system = make_prompts(PromptTemplates(synthetic_generation_system="Be brief."), chat=True)
    assert system.render("chat_generation_system") == "Be brief."
    assert system.render("chat_generation_turn", label="x") == "Write a new example of x."
    assert "synthetic_generation_system" not in system.templates


@pytest.mark.parametrize(
    ("template", "labels", "says"),
    [
        ("A {label}", False, "no labels are planned"),
        ("{label} {policy}", True, "no other placeholder"),
        ("", True, "is empty"),
    ],
)
def test_what_is_wrong_with_a_turn_is_said(template: str, labels: bool, says: str) -> None:
    custom = PromptTemplates(synthetic_generation_system=template)
    with pytest.raises(ConfigError, match="custom_synthetic_generation_prompt") as refused:
        make_prompts(custom, chat=True, labels=labels)
    assert says in str(refused.value)


def test_hashes_tell_prompts_apart() -> None:
    ours, theirs = (
        make_prompts(PromptTemplates(synthetic_generation_system=text)).hashes()
        for text in (None, "Write.")
    )
    assert {name for name in ours if ours[name] != theirs[name]} == {"synthetic_generation_system"}
    assert ours.keys() == STYLES.keys() == FRAMES.keys()
