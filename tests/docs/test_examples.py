"""Every Python block of the documents that can run, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN_ONLY = "..."


def blocks() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        (f"{page.relative_to(ROOT)}:{number}", code)
        for page in pages
        for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), start=1)
        if SHOWN_ONLY not in code
    ]


@pytest.mark.parametrize(("where", "code"), blocks())
def test_the_example_runs(where: str, code: str) -> None:
    exec(compile(code, where, "exec"), {})


def test_there_are_examples_to_run() -> None:
    assert blocks()
