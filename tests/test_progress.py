"""What a person sees when the output is no terminal."""

from __future__ import annotations

import io

from nanodistill.events import ROWS, Notice, Progress, Table
from nanodistill.progress import Lines, duration, shown_on, shown_value


def test_a_stage_prints_a_line_now_and_then_and_always_its_end() -> None:
    now = 0.0
    out = io.StringIO()
    listen = Lines(out, clock=lambda: now)
    for done in range(1, 11):
        listen(Progress("generate", done, 10, figures={"calls/s": 7.25}, seconds_left=90))
        now += 1.0
    assert out.getvalue().splitlines() == [
        "generate  1/10 rows (10%)  calls/s 7.25  1 min 30 s left",
        "generate  6/10 rows (60%)  calls/s 7.25  1 min 30 s left",
        "generate  10/10 rows (100%)  calls/s 7.25",
    ]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_panel_shows_the_rows_beside_the_stage_and_leaves_a_line_of_each_stage() -> None:
    out = Terminal()
    with shown_on(out) as listen:
        listen(Progress(ROWS, 40, 360, "kept"))
        listen(Progress("generate", 9, 9, "calls", 0.0, {"spent": "$0.01"}))
        listen(Progress("trace", 7, 80, "calls", 12.0, {"spent": "$0.02"}))
    last = out.getvalue().split("9/9 calls")[-1]
    assert "$0.01" not in last
    assert all(text in last for text in ("40/360 kept", "7/80 calls", "12 s left", "$0.02"))


def test_quiet_keeps_warnings_and_tables() -> None:
    out = io.StringIO()
    with shown_on(out, quiet=True) as listen:
        listen(Progress("train", 1, 2))
        listen(Notice("train loaded"))
        listen(Notice("Mind the gap.", "warning"))
        listen(Table("Result", ("model", "accuracy"), (("base", "3%"),)))
    assert out.getvalue().startswith("Warning: Mind the gap.\n")
    assert "train" not in out.getvalue()
    assert "accuracy" in out.getvalue()


def test_markup_in_a_table_is_text() -> None:
    out = io.StringIO()
    with shown_on(out) as listen:
        listen(Table("Rows", ("input",), (("[bold]not markup[/]",),)))
    assert "[bold]not markup[/]" in out.getvalue()


def test_figures_and_durations_for_people() -> None:
    values = [shown_value(value) for value in (1234567, 0.123456, 12345.6, None, "x")]
    assert values == ["1,234,567", "0.123", "12,346", "-", "x"]
    assert [duration(s) for s in (4.4, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 5 min"]
