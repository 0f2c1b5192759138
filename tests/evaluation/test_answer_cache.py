"""Answers that are kept stay kept; what a crash tears off never counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.errors import CorruptFileError
from nanodistill.evaluation.answer_generation import AnswerCache
from nanodistill.evaluation.worker import GeneratedAnswer


def answer(key: str) -> GeneratedAnswer:
    return GeneratedAnswer(key, f"text of {key} \ud800 ü\r\u2028\n", "stop", 10, 3, 0.25, 1000)


def filled(path: Path, *keys: str) -> AnswerCache:
    answers = AnswerCache(path)
    with answers.writing():
        for key in keys:
            answers.add(answer(key))
    return answers


def test_what_is_added_is_there_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    first = filled(path, "a", "b")
    assert dict(AnswerCache(path)) == dict(first) == {"a": answer("a"), "b": answer("b")}


def test_cut_anywhere_the_whole_answers_are_kept_and_more_can_follow(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    filled(path, "a", "b")
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        assert list(AnswerCache(path)) == ["a", "b"][:whole]
        filled(path, "c")
        assert list(AnswerCache(path)) == [*["a", "b"][:whole], "c"]


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    filled(path, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(CorruptFileError, match=r"answers\.jsonl:2 ") as raised:
        AnswerCache(path)
    assert raised.value.next_step is not None


def test_adding_outside_of_writing_is_refused(tmp_path: Path) -> None:
    answers = filled(tmp_path / "answers.jsonl", "a")
    with pytest.raises(ValueError, match="inside"):
        answers.add(answer("b"))
