"""Messages that the page on troubleshooting quotes are messages of the program."""

from __future__ import annotations

import re

import pytest

from docs.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = [
    re.sub(r"\s+", " ", quote).strip(" `")
    for quote in re.findall(r"^\*\*(``?.+?``?)(?=[,*. ]*(?:\*\*| in `|, exit))", PAGE, re.M | re.S)
]
FACTS = re.compile(
    r": |; |, did you mean|'[^']*'|\{[^}]*\}|`[^`]*`|[A-Z_]{6,}|\b\w+_\w+(?:\.\w+)?\b|[\d.]*\d"
    r"|anthropic"
)
OF_PYTHON = "No module named"


def source() -> str:
    """All of the package's code, texts over several lines joined, what is filled in left out."""
    code = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "nanodistill").rglob("*.py")
    )
    return re.sub(r'"\s*\n\s*f?"', "", code)


@pytest.mark.parametrize("quote", [quote for quote in QUOTED if OF_PYTHON not in quote])
def test_messages_that_are_quoted_are_those_of_the_program(quote: str) -> None:
    pieces = [piece.strip(" :?,;()=") for piece in FACTS.split(quote)]
    assert any(len(piece) >= 6 for piece in pieces)
    code = source()
    missing = [piece for piece in pieces if len(piece) >= 6 and piece not in code]
    assert not missing


def test_many_are_quoted() -> None:
    assert len(QUOTED) > 25
