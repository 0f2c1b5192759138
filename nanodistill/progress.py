"""Draws what the library says while it works: the only module that prints.

In a terminal a live panel stays at the bottom, with notices and tables above
it; anywhere else there are plain lines, at most one every few seconds for the
same stage, so that a log of an overnight run stays readable. Everything goes to
the stream that it is given (standard error under `--json`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from nanodistill.events import ROWS, Event, Listener, Notice, Progress, Table, Value

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table as RichTable

SECONDS_BETWEEN_LINES = 5.0
PANEL_REFRESHES_PER_SECOND = 4
BAR_WIDTH = 32


@contextmanager
def shown_on(stream: TextIO, *, quiet: bool = False) -> Iterator[Listener]:
    """A listener that draws on `stream`; with `quiet` it shows warnings and tables alone."""
    if quiet:
        yield lambda event: _print_plain(event, stream) if _is_loud(event) else None
    elif stream.isatty():
        with _panel(stream) as listener:
            yield listener
    else:
        yield Lines(stream)


def _is_loud(event: Event) -> bool:
    return isinstance(event, Table) or (isinstance(event, Notice) and event.level == "warning")


class Lines:
    """Plain lines, thinned out by time. `clock` gives seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress):
            _print_plain(event, self._stream)
        elif self._is_due(event):
            print(progress_line(event), file=self._stream, flush=True)

    def _is_due(self, event: Progress) -> bool:
        now = self._clock()
        ended = event.total is not None and event.done >= event.total
        last = self._last.get(event.stage)
        if ended and last == float("inf"):
            return False
        if not ended and last is not None and now - last < SECONDS_BETWEEN_LINES:
            return False
        self._last[event.stage] = float("inf") if ended else now
        return True


def progress_line(event: Progress) -> str:
    """`train  30/60 updates (50%)  loss 0.412  2 min left`."""
    share = f" ({event.done / event.total:.0%})" if event.total else ""
    total = f"/{event.total:,}" if event.total is not None else ""
    parts = [event.stage, f"{event.done:,}{total} {event.unit}{share}"]
    parts += [f"{name} {shown_value(value)}" for name, value in event.figures.items()]
    return "  ".join([*parts, _left(event)]).rstrip()


def shown_value(value: Value) -> str:
    """A figure for a person: thousands apart, floats to three digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _print_plain(event: Event, stream: TextIO) -> None:
    if isinstance(event, Notice):
        prefix = "Warning: " if event.level == "warning" else ""
        print(f"{prefix}{event.text}", file=stream, flush=True)
    elif isinstance(event, Table):
        from rich.console import Console

        console = Console(file=stream, width=_plain_width(event), color_system=None)
        console.print(_rich_table(event))


def _plain_width(event: Table) -> int:
    widest = [max(map(len, column)) for column in zip(event.columns, *event.rows, strict=True)]
    return min(160, max(80, sum(widest) + 3 * len(widest) + 1))


def _rich_table(event: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(title=event.title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in event.columns:
        table.add_column(column, overflow="fold")
    for row in event.rows:
        table.add_row(*map(Text, row))
    return table


@contextmanager
def _panel(stream: TextIO) -> Iterator[Listener]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream)
    with Live(
        console=console,
        refresh_per_second=PANEL_REFRESHES_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        yield Panel(console, live)


class Panel:
    """The stage at work, and above it how many of the wanted rows are there.

    A stage that is over leaves one line behind.
    """

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._stage: Progress | None = None
        self._rows: Progress | None = None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress):
            _print_styled(event, self._console)
            return
        if event.stage == ROWS:
            self._rows = event
        else:
            self._begin(event)
        self._live.update(self._drawn())

    def _begin(self, event: Progress) -> None:
        if self._stage is not None and self._stage.stage != event.stage:
            self._live.update("")
            self._console.print(_heads(self._stage))
        self._stage = event

    def _drawn(self) -> RenderableType:
        from rich.console import Group

        shown = [each for each in (self._rows, self._stage) if each is not None]
        heads = _heads(*shown)
        figures = self._stage.figures if self._stage is not None else {}
        return Group(heads, _figures(figures)) if figures else heads


def _print_styled(event: Notice | Table, console: Console) -> None:
    from rich.text import Text

    if isinstance(event, Table):
        console.print(_rich_table(event))
    elif event.level == "warning":
        console.print(Text.assemble(("Warning: ", "bold yellow"), event.text))
    else:
        console.print(Text(event.text))


def _heads(*events: Progress) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    heads = Grid.grid(padding=(0, 2))
    for event in events:
        total = f"/{event.total:,}" if event.total is not None else ""
        left = _left(event)
        heads.add_row(
            Text(event.stage, style="bold"),
            ProgressBar(total=event.total, completed=event.done, width=BAR_WIDTH),
            Text(f"{event.done:,}{total} {event.unit}"),
            Text(left, style="cyan"),
        )
    return heads


def _left(event: Progress) -> str:
    """What is left of the time, where something is left."""
    ended = event.total is not None and event.done >= event.total
    return "" if ended or event.seconds_left is None else f"{duration(event.seconds_left)} left"


def _figures(figures: Mapping[str, Value]) -> RenderableType:
    from rich.text import Text

    line = Text("  ")
    for name, value in figures.items():
        line.append(f"{name} ", style="dim").append(shown_value(value)).append("   ")
    return line
