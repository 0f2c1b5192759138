"""Code of a user's own, by name or by file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nanodistill.errors import ConfigError
from nanodistill.plugins import ResponseParser, ThinkingFormat, load_object
from nanodistill.thinking import resolve_format


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour_of_mine.py").write_text("ANSWER = 42\n")
    path = tmp_path / "mine_of_test.py"
    path.write_text(
        "from neighbour_of_mine import ANSWER\n"
        "class Kit:\n"
        "    @staticmethod\n"
        "    def answer():\n"
        "        return ANSWER\n"
    )
    return path


@pytest.mark.parametrize("form", ["{path}:Kit.answer", "mine_of_test:Kit.answer"])
def test_by_file_and_by_module_in_the_working_directory(mine: Path, form: str) -> None:
    found = load_object(form.format(path=mine), field="verifier")
    assert found() == 42
    assert load_object(form.format(path=mine), field="verifier") is found


def test_installed_modules_are_found() -> None:
    assert load_object("json.decoder:JSONDecoder.decode", field="metric").__name__ == "decode"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("checks", "module:name or file.py:name"),
        ("no_such_module_here:x", "no module 'no_such_module_here'"),
        ("json:loadz", "json has no 'loadz'"),
        ("broken_import_of_test:x", "needs the module 'no_such_neighbour'"),
    ],
)
def test_what_is_not_there_is_said(mine: Path, reference: str, says: str) -> None:
    (mine.parent / "broken_import_of_test.py").write_text("import no_such_neighbour\n")
    sys.path.append(str(mine.parent))
    with pytest.raises(ConfigError, match="verifier") as refused:
        load_object(reference, field="verifier")
    assert says in str(refused.value)


def test_a_file_that_fails_is_loaded_anew_once_it_is_mended(mine: Path) -> None:
    path = mine.with_name("halfway.py")
    path.write_text("VALUE = 1\nraise ValueError('later')\n")
    with pytest.raises(ConfigError, match=r"verifier.*line 2.*later"):
        load_object(f"{path}:VALUE", field="verifier")
    path.write_text("VALUE = 2\n")
    assert load_object(f"{path}:VALUE", field="verifier") == 2


def test_the_protocols_are_those_of_the_analysis() -> None:
    class Mine(ThinkingFormat, ResponseParser):
        def format(self, thinking: str, output: str) -> str:
            return thinking + output

        def parse(self, response: str) -> tuple[str, str]:
            return response[:1], response[1:]

        def parse_synthetic_examples(self, text: str) -> list[dict[str, str]]:
            return [{"input": text}]

    assert isinstance(Mine(), ThinkingFormat)
    assert isinstance(Mine(), ResponseParser)
    assert not isinstance("text", ResponseParser)


class NeedsMore:
    """A class that can't be made without arguments, as a thinking format or a parser."""

    def __init__(self, style: str) -> None: ...

    def format(self, thinking: str, output: str) -> str:
        return thinking + output

    def parse(self, response: str) -> tuple[str, str]:
        return response, response

    def parse_synthetic_examples(self, text: str) -> list[dict[str, str]]:
        return [{"input": text}]


def test_a_class_that_takes_arguments_is_named() -> None:
    with pytest.raises(ConfigError, match=r"thinking_format: NeedsMore\(\) raised TypeError"):
        resolve_format(NeedsMore)
