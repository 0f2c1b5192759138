"""Thinking and content told apart, whatever the pieces in which a text comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanodistill.metrics.output_parser import parse_output
from nanodistill.serve.reasoning_parser import Delimiters, delimiters_of, parser_for
from nanodistill.thinking import FORMATS, CustomFormat, Format

TEXTS = st.text(st.sampled_from('ab<>/{}"\\ \n*:'), max_size=30) | st.sampled_from(
    ["<thinking>", "</thinking>", "<think>", "</think>", "**Output:**", "<thinking", "thinking>"]
)


class Steps:
    """A user's own format, whose marks are plain text."""

    def format(self, thinking: str, output: str) -> str:
        return f"Steps: {thinking} => {output}"

    def parse(self, response: str) -> tuple[str, str]:
        steps, arrow, output = response.partition(" => ")
        if not arrow:
            raise ValueError
        return steps.removeprefix("Steps: "), output


STEPS: Format = CustomFormat(Steps())


def split(text: str, form: Format, size: int) -> tuple[str, str]:
    """Thinking and content of a text that comes `size` characters at a time."""
    splitter = parser_for(form)
    pieces = [p for at in range(0, len(text), size) for p in splitter.add(text[at : at + size])]
    pieces += splitter.end()
    assert all(piece.text for piece in pieces)
    return tuple("".join(p.text for p in pieces if p.kind == kind) for kind in KINDS)  # type: ignore[return-value]


KINDS = ("thinking", "content")


@pytest.mark.parametrize("form", [*FORMATS.values(), STEPS])
@given(thinking=st.text("ab \n.", min_size=1), output=st.text("xy z", min_size=1))
def test_what_a_format_writes_is_told_apart(form: Format, thinking: str, output: str) -> None:
    text = form.format(thinking, output)
    reading = parse_output(text, "stop", form)
    for size in (1, 7, 1000):
        wanted = (reading.thinking or "", reading.output or "")
        assert split(text, form, size) == tuple(part.strip() for part in wanted)


@given(parts=st.lists(TEXTS, max_size=6), size=st.integers(1, 9))
def test_the_pieces_do_not_matter(parts: list[str], size: int) -> None:
    text = "".join(parts)
    for form in FORMATS.values():
        assert split(text, form, size) == split(text, form, len(text) or 1)


@given(text=TEXTS)
def test_text_in_no_format_is_content(text: str) -> None:
    if not text.strip().startswith("<think") and "**" not in text:
        assert split(text, FORMATS["xml"], 2) == ("", text.strip())


def test_thinking_that_never_ends_has_no_content() -> None:
    assert split("<thinking>\nhm, well </thin", FORMATS["xml"], 3) == ("hm, well </thin", "")


def test_a_models_own_thinking_comes_apart_under_every_format() -> None:
    text = "<think>\nfirst\n</think>\n\nthe answer"
    for form in (FORMATS["xml"], FORMATS["none"]):
        assert split(text, form, 4) == ("first", "the answer")


def test_thinking_comes_while_it_is_written() -> None:
    splitter = parser_for(FORMATS["xml"])
    assert splitter.add("<thinking>\nFirst, ")[0].text == "First,"
    assert splitter.add("look.")[0].text == " look."
    assert splitter.add("\n</thin") == []
    (piece,) = splitter.add("king>\n\nbug")
    assert (piece.kind, piece.text) == ("content", "bug")


def test_marks() -> None:
    assert delimiters_of(FORMATS["xml"]) == Delimiters("<thinking>\n", "\n</thinking>\n\n", "")
    assert delimiters_of(FORMATS["none"]) is None
    assert delimiters_of(FORMATS["json"]) is None
    assert delimiters_of(STEPS) == Delimiters("Steps: ", " => ", "")
    plain = delimiters_of(FORMATS["plain"])
    assert plain is not None
    assert not plain.can_stream
