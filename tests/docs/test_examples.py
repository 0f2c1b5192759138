"""Every example of the documents that can run, runs; every run file and command line holds."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from docs.pages import PAGES, ROOT, Block, blocks, prose
from nanodistill.cli import cli
from nanodistill.config import DistillationConfig
from nanodistill.config.run_file import resolve_paths

SHOWN_ONLY = "..."
HEAD = {"name": "run", "seed": "seeds.jsonl", "instruction": "Sort the message."}
RECIPE = re.compile(r"^([a-z][a-z-]*)[^:\n]*:(?!=)", re.MULTILINE)


def named(block: Block) -> str:
    return block.where


@pytest.mark.parametrize(
    "block", [b for b in blocks("python") if SHOWN_ONLY not in b.text], ids=named
)
def test_the_example_runs(block: Block) -> None:
    exec(compile(block.text, block.where, "exec"), {})


@pytest.mark.parametrize("block", list(blocks("toml")), ids=named)
def test_a_run_file_holds(block: Block, tmp_path: Path) -> None:
    for values in alternatives(block.text):
        assert DistillationConfig(**HEAD | resolve_paths(values, tmp_path))


def alternatives(text: str) -> list[dict[str, Any]]:
    """A block that sets one key again and again shows alternatives, a line each."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len({line.partition("=")[0].strip() for line in lines}) == 1 < len(lines):
        return [tomllib.loads(line) for line in lines]
    return [tomllib.loads(text)]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """The words of each line that calls `nanodistill` or `just`, in blocks and in the text."""
    for block in blocks("sh", "bash"):
        for line in block.text.splitlines():
            yield block.where, shlex.split(line, comments=True)
    for page in PAGES:
        for code in re.findall(r"`((?:nanodistill|just) [^`]+)`", prose(page)):
            yield str(page.relative_to(ROOT)), shlex.split(code)


def calls_of(program: str) -> list[tuple[str, list[str]]]:
    found = []
    for where, words in command_lines():
        places = [at for at, word in enumerate(words) if Path(word).name == program]
        found += [(where, words[at + 1 :]) for at in places if at == 0 or words[at - 1] == "&&"]
    return found


@pytest.mark.parametrize(("where", "words"), calls_of("nanodistill"))
def test_a_command_line_is_one_that_the_program_takes(where: str, words: list[str]) -> None:
    found: click.Command = cli
    rest = list(words)
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        names = rest.pop(0).split("|")
        assert set(names) <= set(found.commands), f"{where}: {names}"
        found = found.commands[names[0]]
    known = {option for parameter in found.params for option in parameter.opts}
    given = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert given <= known | {"--help", "--version"}, where


@pytest.mark.parametrize(("where", "words"), calls_of("just"))
def test_a_recipe_is_there(where: str, words: list[str]) -> None:
    recipes = set(RECIPE.findall((ROOT / "justfile").read_text(encoding="utf-8")))
    assert words[0].startswith("-") or words[0] in recipes, where


def test_there_are_examples_of_each_kind() -> None:
    counts = (len(list(blocks("python"))), len(list(blocks("toml"))), len(calls_of("nanodistill")))
    assert min(counts) > 8
