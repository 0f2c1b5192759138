"""What counts as an output, and what can't be read."""

from __future__ import annotations

import pytest

from nanodistill.metrics.output_parser import ParsedOutput, output_format, parse_output
from nanodistill.thinking import FORMATS
from nanodistill.types import FinishReason


class Steps:
    """A format of a user's own."""

    def format(self, thinking: str, output: str) -> str:
        return f"{thinking} => {output}"

    def parse(self, response: str) -> tuple[str, str]:
        thinking, output = response.split(" => ")
        return thinking, output


@pytest.mark.parametrize(
    ("form", "text", "thinking", "output"),
    [
        ("none", " billing\n", None, "billing"),
        ("none", "", None, None),
        ("none", " \n", None, None),
        ("xml", "<thinking>paid twice</thinking>\n\nbilling", "paid twice", "billing"),
        # An untrained model knows no tags; its answer counts.
        ("xml", "billing", None, "billing"),
        ("xml", "<thinking>paid twice", None, None),
        ("xml", "<thinking>paid twice</thinking>", "paid twice", None),
        ("markdown", "**Thinking:** paid twice", None, None),
        ("json", '{"reasoning": "paid twice", "answ', None, None),
        ("json", '{"reasoning": "paid twice", "answer": "billing"}', "paid twice", "billing"),
        ("plain", "paid twice\n\nbilling", "paid twice", "billing"),
        ("none", "<think>hm</think>billing", "hm", "billing"),
        ("xml", "<think>hm</think>billing", "hm", "billing"),
        ("none", "<think>hm", None, None),
    ],
)
def test_reading(form: str, text: str, thinking: str | None, output: str | None) -> None:
    assert parse_output(text, "stop", FORMATS[form]) == ParsedOutput(thinking, output)


@pytest.mark.parametrize(
    ("form", "text", "finish", "output"),
    [
        ("xml", "So the customer was charged", "length", None),
        ("xml", "So the customer was charged", "stop", "So the customer was charged"),
        ("xml", "<thinking>paid</thinking>billing and", "length", "billing and"),
        ("none", "billing and", "length", "billing and"),
    ],
)
def test_cut_off_while_thinking(
    form: str, text: str, finish: FinishReason, output: str | None
) -> None:
    assert parse_output(text, finish, FORMATS[form]).output == output


def test_a_student_of_answers_alone_is_not_read_by_the_format() -> None:
    answer = "first paragraph\n\nsecond paragraph"
    assert parse_output(answer, "stop", output_format("plain", "cot")).output == "second paragraph"
    assert parse_output(answer, "stop", output_format("plain", "answer")).output == answer


def test_a_format_of_ones_own_is_taken_from_the_run_file() -> None:
    form = output_format("mine.py:Steps", "cot", Steps)
    assert parse_output("paid twice => billing", "stop", form) == ParsedOutput(
        "paid twice", "billing"
    )
    assert output_format("xml", "cot", Steps) is FORMATS["xml"]
