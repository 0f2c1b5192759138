"""report.html in a real browser: drawn, filtered, quiet, and deaf to what its texts say."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from nanodistill.evaluation.eval_set import EvalExample
from nanodistill.reporting import write_report
from reporting.browser import HOW_TO_GET_IT, Page, find_browser, opened
from reporting.factories import RunFactory, always, mostly_right, right, word

pytestmark = pytest.mark.skipif(find_browser() is None, reason=HOW_TO_GET_IT)
Look = Callable[[Page], Awaitable[None]]

SCRIPTS = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<!-- <script>window.hacked = 3",
    '<img src="x" onerror="window.hacked = 4">',
    '<a href="javascript:window.hacked = 5">press</a>',
    "\"'><svg onload=window.hacked=6>",
    "<style>body { display: none }</style>",
    '<iframe srcdoc="<script>parent.hacked = 7</script>"></iframe>',
    "\u2028]]>{{ 7 * 7 }}{% raw %}${window.hacked = 8}`",
    "<meta http-equiv=refresh content=0;url=http://127.0.0.1:9/>",
)
ROWS = "document.querySelectorAll('.rows tbody tr').length"
STATUS = "document.querySelector('[role=status]').textContent"


def look_at(file: Path, look: Look, *, width: int = 1280, dark: bool = False) -> None:
    """Open `file`, look, and find that nothing was said on the console and nothing asked for."""

    async def main() -> None:
        async with opened(file, width=width, dark=dark) as page:
            await look(page)
            assert page.said == []
            assert page.requests == [file.as_uri()]

    anyio.run(main)


def report_of(factory: RunFactory, **fields: object) -> Path:
    return write_report(factory.config(**fields), factory.run).path


async def press(page: Page, selector: str) -> None:
    await page.value(f"document.querySelector({selector!r}).click()")


def test_it_is_browsed_and_filtered(factory: RunFactory) -> None:
    factory.add_everything(tests=60)

    async def look(page: Page) -> None:
        assert (await page.value("document.title")).startswith("words: The student is")
        assert await page.value(ROWS) == 25
        assert await page.value(STATUS) == "1–25 of 60 rows"
        await press(page, ".pages button:last-child")
        assert await page.value(STATUS) == "26–50 of 60 rows"

        await press(page, "[data-outcome=broke]")
        assert await page.value(STATUS) == "1–6 of 6 rows (60 total)"
        wrong = "[...document.querySelectorAll('.rows td.model-student')].map(c => c.innerText)"
        assert all("✗ wrong" in said for said in await page.value(wrong))
        await press(page, "[data-outcome=fixed]")
        assert await page.value(STATUS) == "1–21 of 21 rows (60 total)"
        await press(page, ".reset")
        assert await page.value(STATUS) == "1–25 of 60 rows"

        await page.choose("Gold answer", "plant")
        assert await page.value(STATUS) == "1–25 of 30 rows (60 total)"
        await page.choose("Right or wrong", "base right")
        assert await page.value(STATUS) == "No matching rows"
        await press(page, ".reset")
        await page.type("input[type=search]", "NUMBER 207")
        assert await page.value(STATUS) == "1–1 of 1 rows (60 total)"
        assert await page.value("document.activeElement.type") == "search"

    look_at(report_of(factory), look)


def test_a_number_of_the_matrix_shows_its_rows(factory: RunFactory) -> None:
    factory.add_everything(tests=40)

    async def look(page: Page) -> None:
        square = ".square[data-model=student][data-gold=animal][data-predicted=plant]"
        count = await page.value(f"document.querySelector('{square}').textContent")
        await press(page, square)
        assert await page.value(STATUS) == f"1–{count} of {count} rows (40 total)"

    look_at(report_of(factory), look)


def test_thinking_is_folded_and_differences_are_marked(factory: RunFactory) -> None:
    gold = "The tall oak is a plant"
    tests = [replace(word(n), output=gold, thinking="roots") for n in range(2)]
    dataset = factory.add_dataset(tests, labels=None)
    near = always("the tall oak was a plant")
    factory.add_evaluation(dataset, metric="text", base=always("oak"), student=near)

    async def look(page: Page) -> None:
        marks = "[...document.querySelectorAll('td mark')].map((m) => m.innerText)"
        assert await page.value(marks) == ["was", "was"]
        folded = "document.querySelector('td.model-student details')"
        assert await page.value(f"{folded}.open") is False
        await press(page, "td.model-student summary")
        assert "student thinks about row 0." in await page.value(f"{folded}.innerText")
        assert await page.value("document.querySelector('td.gold details') !== null")

    look_at(report_of(factory), look)


def test_curves_are_drawn_in_the_colours_of_the_scheme(factory: RunFactory) -> None:
    factory.add_training(factory.add_dataset())
    inked = """[...document.querySelectorAll('.curve canvas')].map((c) =>
        c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0))"""
    paper = "getComputedStyle(document.body).backgroundColor"
    seen: list[str] = []

    async def look(page: Page) -> None:
        assert await page.value(inked) == [True, True]
        seen.append(await page.value(paper))

    for dark in (False, True):
        look_at(report_of(factory), look, dark=dark)
    assert seen == ["rgb(251, 250, 248)", "rgb(20, 23, 27)"]


@pytest.mark.parametrize("width", [370, 768, 1280])
def test_the_page_never_scrolls_sideways(factory: RunFactory, width: int) -> None:
    long = "x" * 400 + " https://example.org/" + "y" * 300
    tests = [replace(word(0), input=long), *(word(n) for n in range(1, 30))]
    dataset = factory.add_dataset(tests, teacher="t" * 150)
    factory.add_training(dataset)
    factory.add_evaluation(
        dataset, base=always(long), base_few_shot=right, student=mostly_right, teacher=right
    )

    async def look(page: Page) -> None:
        await press(page, "details.more")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.value(wide) == 0
        picture = await page.picture()
        assert struct.unpack(">I", picture[16:20]) == (width,)

    look_at(report_of(factory), look, width=width)


def test_a_dataset_full_of_markup_does_nothing(factory: RunFactory) -> None:
    tests = [replace(word(n), input=text, output=SCRIPTS[n - 1]) for n, text in enumerate(SCRIPTS)]
    dataset = factory.add_dataset(
        tests, labels=SCRIPTS, instruction=" ".join(SCRIPTS), teacher=SCRIPTS[0]
    )
    factory.add_training(dataset, student=SCRIPTS[1])

    def echo(n: int, row: EvalExample) -> str | None:
        return SCRIPTS[n] if n % 3 else None

    factory.add_evaluation(dataset, called=SCRIPTS[1], base=echo, student=right, teacher=echo)

    async def look(page: Page) -> None:
        await page.value("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        for selector in (".square", "[data-outcome='']", ".reset"):
            await press(page, selector)
        await page.type("input[type=search]", "<script>")
        assert await page.value("window.hacked") is None
        assert await page.value("document.querySelectorAll('script').length") == 3
        foreign = "img, iframe, style ~ style, a[href*=script], svg[onload], meta[content*=url]"
        assert await page.value(f"document.querySelectorAll('{foreign}').length") == 0
        assert "<script>window.hacked" in await page.value("document.body.innerText")
        assert await page.value("getComputedStyle(document.body).display") == "block"

    look_at(report_of(factory), look)


def test_the_policy_stops_what_markup_would_do(factory: RunFactory) -> None:
    """The second wall: even markup that got into the page runs nothing and loads nothing."""
    factory.add_call()
    file = report_of(factory)
    evil = '<img src="http://127.0.0.1:9/x" onerror="window.hacked = 1"><script>hacked = 2</script>'
    file.write_text(file.read_text().replace("<main", f"{evil}<main"))

    async def main() -> None:
        async with opened(file) as page:
            assert await page.value("window.hacked") is None
            assert page.blocked == ["csp"]
            assert any("Content Security Policy" in said for said in page.said)

    anyio.run(main)


@pytest.mark.parametrize("parts", [["asked"], ["asked", "dataset"], ["dataset", "trained"]])
def test_a_report_of_a_part_of_a_run_is_quiet_too(factory: RunFactory, parts: list[str]) -> None:
    if "asked" in parts:
        factory.add_call()
    if "dataset" in parts:
        version = factory.add_dataset()
        if "trained" in parts:
            factory.add_training(version)

    async def look(page: Page) -> None:
        links = "[...document.querySelectorAll('nav a')].map((a) => document.querySelector(a.hash))"
        assert None not in await page.value(f"{links}.map((e) => e && e.id)")

    look_at(report_of(factory), look)


def test_five_thousand_rows_open(factory: RunFactory) -> None:
    dataset = factory.add_dataset(tests=5000)
    factory.add_evaluation(dataset, base=always("animal"), student=mostly_right, teacher=right)

    async def look(page: Page) -> None:
        assert await page.value(STATUS) == "1–25 of 5,000 rows"
        assert await page.value("document.querySelectorAll('*').length") < 2500
        await page.type("input[type=search]", "number 4999")
        assert await page.value(STATUS) == "1–1 of 1 rows (5,000 total)"

    look_at(report_of(factory), look)


def test_parts_and_tables_have_names_to_hear(factory: RunFactory) -> None:
    factory.add_everything()

    async def look(page: Page) -> None:
        unnamed = """[...document.querySelectorAll('section, table, svg, input, select, button')]
            .filter((e) => e.getAttribute('aria-hidden') !== 'true' && !e.closest('[role=img]')
                && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')
                && !e.querySelector('caption') && !e.closest('label') && !e.textContent.trim())
            .map((e) => e.outerHTML.slice(0, 80))"""
        assert await page.value(unnamed) == []
        headings = "[...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])"
        levels = await page.value(headings)
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))

    look_at(report_of(factory), look)
