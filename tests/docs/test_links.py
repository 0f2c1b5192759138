"""Every link of the documents leads somewhere, in a checkout as in the built site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from docs.pages import PAGES, ROOT, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
SITE = ROOT / "docs" / "building" / "mkdocs.yml"


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in its address."""
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading)).strip().lower().replace(" ", "-")
        for heading in HEADING.findall(prose(page))
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"
        if page.is_relative_to(ROOT / "docs"):
            assert target.is_relative_to(ROOT / "docs"), f"{link} is not in the built site"


def test_every_page_is_on_the_contents_page_and_in_the_sites_menu() -> None:
    shown = {
        page.name for page in PAGES if page.parent == ROOT / "docs" and page.name != "README.md"
    }
    linked = set(LINK.findall(prose(ROOT / "docs" / "README.md")))
    assert shown <= linked
    decisions = {page.name for page in PAGES if page.parent.name == "decisions"}
    listed = set(LINK.findall(prose(ROOT / "docs" / "decisions" / "README.md")))
    assert decisions == listed | {"README.md"}
    menu = set(re.findall(r"[\w/.-]+\.md", yaml.safe_dump(yaml.safe_load(SITE.read_text())["nav"])))
    assert menu == shown | {"README.md", "decisions/README.md"}
