"""Thinking formats: what one writes it reads back, and it knows where it can't."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanodistill.config.synthesis_fields import THINKING_FORMATS
from nanodistill.errors import ConfigError
from nanodistill.thinking import FORMATS, has_thinking, resolve_format, round_trips

THINKING = [name for name in FORMATS if name != "none"]
MARKS = [
    "<thinking>",
    "</thinking>",
    "**Thinking:**",
    "**Output:**",
    "\n\n",
    '{"answer": "x"}',
    '"',
]
texts = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(MARKS))).map(
    lambda parts: "".join(parts).strip()
)
unmarked = st.text(max_size=60).filter(
    lambda text: "\n\n" not in text and not any(mark in text for mark in MARKS[:4])
)


def test_the_names_that_a_configuration_takes_are_those_of_the_formats() -> None:
    assert tuple(FORMATS) == THINKING_FORMATS


@pytest.mark.parametrize("name", FORMATS)
@given(thinking=st.none() | texts, output=texts)
@example(thinking="a </thinking> b", output="c")
@example(thinking="", output="")
def test_what_survives_reads_back_the_same(name: str, thinking: str | None, output: str) -> None:
    form = FORMATS[name]
    kept = thinking if name != "none" else None
    same = form.parse(form.format(thinking, output)) == (kept, output)
    assert round_trips(form, thinking, output) == same


@pytest.mark.parametrize("name", THINKING)
@given(thinking=unmarked.map(str.strip).filter(bool), output=unmarked.map(str.strip).filter(bool))
def test_ordinary_texts_survive(name: str, thinking: str, output: str) -> None:
    assert round_trips(FORMATS[name], thinking, output)


@given(thinking=texts, output=texts)
def test_json_holds_any_text(thinking: str, output: str) -> None:
    assert round_trips(FORMATS["json"], thinking, output)


@pytest.mark.parametrize(
    ("name", "thinking", "output"),
    [
        ("xml", "it ends </thinking> twice", "yes"),
        ("markdown", "so **Output:** comes", "yes"),
        ("plain", "first", "one\n\ntwo"),
    ],
)
def test_marks_of_the_format_inside_a_text_do_not_survive(
    name: str, thinking: str, output: str
) -> None:
    assert not round_trips(FORMATS[name], thinking, output)


def test_the_forms_are_those_of_the_configuration_analysis() -> None:
    assert FORMATS["xml"].format("why", "so") == "<thinking>\nwhy\n</thinking>\n\nso"
    assert FORMATS["markdown"].format("why", "so") == "**Thinking:**\nwhy\n\n**Output:**\nso"
    assert FORMATS["json"].format("why", "so") == '{"reasoning": "why", "answer": "so"}'
    assert FORMATS["plain"].format("why", "so") == "why\n\nso"
    assert FORMATS["none"].format("why", "so") == "so"


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_in_no_form_is_output_alone(name: str) -> None:
    assert FORMATS[name].parse(" forty-two\n") == (None, "forty-two")


@pytest.mark.parametrize(
    ("name", "text", "thinking"),
    [
        ("xml", "<thinking>because</thinking> 4", "because"),
        ("markdown", "**Thinking:** because **Output:** 4", "because"),
        ("json", 'Sure:\n```json\n{"reasoning": "because", "answer": 4}\n```', "because"),
        ("plain", "first\n\nbecause\n\n4", "first\n\nbecause"),
    ],
)
def test_what_a_model_writes_loosely_is_read(name: str, text: str, thinking: str) -> None:
    assert FORMATS[name].parse(text) == (thinking, "4")


class Arrow:
    def format(self, thinking: str, output: str) -> str:
        return f"{thinking} => {output}"

    def parse(self, response: str) -> tuple[str, str]:
        thinking, output = response.split(" => ")
        return thinking, output


@pytest.mark.parametrize("given_as", [Arrow, Arrow(), f"{__file__}:Arrow"])
def test_a_users_own_format(given_as: object) -> None:
    form = resolve_format(given_as)
    assert has_thinking(form)
    assert form.parse("because => 4") == ("because", "4")
    assert form.parse("no arrow") == (None, "no arrow")
    assert round_trips(form, "because", "4")
    assert not round_trips(form, "a => b", "4")
    assert form.format(None, "4") == "4"


@pytest.mark.parametrize(
    ("given_as", "says"),
    [
        ("yaml", "module:name"),
        ("nowhere.at.all:Thing", "no module 'nowhere.at.all'"),
        ("json:Nothing", "json has no 'Nothing'"),
        ("json:loads", "lacks `format"),
        ("no/such/file.py:Thing", "there is no file"),
    ],
)
def test_what_is_no_format_is_refused(given_as: str, says: str) -> None:
    with pytest.raises(ConfigError, match="thinking") as refused:
        resolve_format(given_as)
    assert says in str(refused.value)
