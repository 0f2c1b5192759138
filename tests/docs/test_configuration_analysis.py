"""Each point of the configuration analysis names what is there, and the test that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import ROOT
from nanodistill.config import DistillationConfig

PAGE = Path(__file__).with_name("configuration_analysis.md")
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| point")
]
CODE = re.compile(r"`([^`]+)`")
FOLDERS = ("nanodistill/", "tests/", "docs/", "pipelines/")


def names_path(code: str) -> bool:
    return code.startswith(FOLDERS) or (ROOT / code.partition("::")[0]).is_file()


def paths() -> list[str]:
    return sorted({code for code in CODE.findall(TEXT) if names_path(code)})


@pytest.mark.parametrize("named", paths())
def test_what_is_named_exists(named: str) -> None:
    path, _, test = named.partition("::")
    found = ROOT / path
    assert found.is_dir() if path.endswith("/") else found.is_file()
    if test:
        defined = rf"^(async )?def {re.escape(test)}\("
        assert re.search(defined, found.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_point_has_a_test_or_a_reason(row: list[str]) -> None:
    point, where, shown = (cell.strip(" |") for cell in row)
    assert point
    assert where
    if shown == "why not":
        assert ":" in where
    else:
        tests = CODE.findall(shown)
        assert tests
        assert all(test.startswith("tests/") for test in tests)


def test_every_part_of_the_analysis_is_followed() -> None:
    parts = set(re.findall(r"^## Part (\d)", TEXT, re.MULTILINE))
    assert parts == set("123456789")
    assert len(ROWS) > 90


def test_every_field_that_is_named_is_one() -> None:
    fields = set(DistillationConfig.model_fields)
    named = {code for code in CODE.findall(TEXT) if re.fullmatch(r"(custom|max|lora)_\w+", code)}
    theirs = {"lora_dropout", "max_length", "max_tokens"}
    assert named - theirs <= fields


def test_the_page_speaks_of_this_project_alone() -> None:
    assert Path.cwd().anchor + "work" not in TEXT
    assert "shared" + "/" not in TEXT
