"""What a person sees when the output is no terminal."""

from __future__ import annotations

import io

from nanodistill.console import Lines, console_listener, duration, shown_value
from nanodistill.events import ROWS, Notice, Progress, Table


def test_a_stage_prints_a_line_now_and_then_and_always_its_end() -> None:
    now = 0.0
    out = io.StringIO()
    on_event = Lines(out, clock=lambda: now)
    for done in range(1, 11):
        on_event(Progress("generate", done, 10, figures={"calls/s": 7.25}, seconds_left=90))
        now += 1.0
    assert out.getvalue().splitlines() == [
        "generate  1/10 rows (10%)  calls/s 7.25  1 min 30 s left",
        "generate  6/10 rows (60%)  calls/s 7.25  1 min 30 s left",
        "generate  10/10 rows (100%)  calls/s 7.25",
    ]


def test_a_stage_that_begins_again_is_told_again() -> None:
    now = 0.0
    out = io.StringIO()
    on_event = Lines(out, clock=lambda: now)
    for done, total in [(1, 2), (2, 2), (2, 2), (1, 3), (2, 3), (3, 3)]:
        on_event(Progress("generate", done, total, "calls"))
        now += 3.0
    told = [line.split()[1] for line in out.getvalue().splitlines()]
    assert told == ["1/2", "2/2", "1/3", "3/3"]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_panel_shows_the_rows_beside_the_stage_and_leaves_a_line_of_each_stage() -> None:
    out = Terminal()
    with console_listener(out) as on_event:
        on_event(Progress(ROWS, 40, 360, "kept"))
        on_event(Progress("generate", 9, 9, "calls", 0.0, {"spent": "$0.01"}))
        on_event(Progress("trace", 7, 80, "calls", 12.0, {"spent": "$0.02"}))
    last = out.getvalue().split("9/9 calls")[-1]
    assert "$0.01" not in last
    assert all(text in last for text in ("40/360 kept", "7/80 calls", "12 s left", "$0.02"))


def test_stages_side_by_side_are_all_in_the_panel() -> None:
    out = Terminal()
    with console_listener(out) as on_event:
        on_event(Progress("blind", 9, 9, "calls"))
        on_event(Progress("generate", 30, 80, "calls"))
        on_event(Progress("trace", 7, 50, "calls"))
        on_event(Progress("generate", 33, 80, "calls"))
        on_event(Progress(ROWS, 40, 360, "kept", 12.0, {"in all about": "$0.30"}))
    last = out.getvalue().split("40/360 kept")[-1]
    assert all(text in last for text in ("12 s left", "33/80 calls", "7/50 calls", "$0.30"))
    assert "9/9" not in last
    assert "9/9" in out.getvalue()


def test_quiet_keeps_warnings_and_tables() -> None:
    out = io.StringIO()
    with console_listener(out, quiet=True) as on_event:
        on_event(Progress("train", 1, 2))
        on_event(Notice("First round: 52 to ask."))
        on_event(Notice("Mind the gap.", "warning"))
        on_event(Table("Result", ("model", "accuracy"), (("base", "3%"),)))
    assert out.getvalue().startswith("Warning: Mind the gap.\n")
    assert "train" not in out.getvalue()
    assert "First round" not in out.getvalue()
    assert "accuracy" in out.getvalue()


def test_markup_in_a_table_is_text() -> None:
    out = io.StringIO()
    with console_listener(out) as on_event:
        on_event(Table("Rows", ("input",), (("[bold]not markup[/]",),)))
    assert "[bold]not markup[/]" in out.getvalue()


def test_figures_and_durations_for_people() -> None:
    values = [shown_value(value) for value in (1234567, 0.123456, 12345.6, None, "x")]
    assert values == ["1,234,567", "0.123", "12,346", "-", "x"]
    assert [duration(s) for s in (4.4, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 5 min"]
