"""Shows the events of a run: the only module that prints.

In a terminal a live panel stays at the bottom, with notices and tables above it. Elsewhere there
are plain lines, at most one every few seconds for the same stage, so that the log of an overnight
run stays readable. Everything goes to the stream it is given (standard error under `--json`).
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
def console_listener(stream: TextIO, *, quiet: bool = False) -> Iterator[Listener]:
    """A listener that draws on `stream`; with `quiet` it shows warnings and tables alone."""
    if quiet:
        yield lambda event: None if _is_passing(event) else _print_plain(event, stream)
    elif stream.isatty():
        with _panel(stream) as listener:
            yield listener
    else:
        yield Lines(stream)


def _is_passing(event: Event) -> bool:
    """Whether an event tells how things go, and neither a warning nor a result."""
    return isinstance(event, Progress) or (isinstance(event, Notice) and event.level == "info")


class Lines:
    """Plain lines, thinned out by time. `clock` gives seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: dict[str, float] = {}
        self._ended: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress):
            _print_plain(event, self._stream)
        elif self._is_due(event):
            print(progress_line(event), file=self._stream, flush=True)

    def _is_due(self, event: Progress) -> bool:
        """Now and then, and at the end; a stage may begin again, as it does with each round."""
        now = self._clock()
        if event.total is not None and event.done >= event.total:
            is_news = self._ended.get(event.stage) != event.done
            self._ended[event.stage] = event.done
            return is_news
        self._ended.pop(event.stage, None)
        last = self._last.get(event.stage)
        if last is not None and now - last < SECONDS_BETWEEN_LINES:
            return False
        self._last[event.stage] = now
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
    """The stages at work, and above them how many of the wanted rows are there.

    A stage that is over when another one begins leaves one line behind.
    """

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._stages: dict[str, Progress] = {}
        self._figures: Mapping[str, Value] = {}
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
        if event.stage not in self._stages:
            over = [name for name, stage in self._stages.items() if _is_over(stage)]
            for stage in [self._stages.pop(name) for name in over]:
                self._live.update("")
                self._console.print(_heads(stage))
        self._stages[event.stage] = event
        self._figures = event.figures

    def _drawn(self) -> RenderableType:
        from rich.console import Group

        rows = [] if self._rows is None else [self._rows]
        heads = _heads(*rows, *self._stages.values())
        figures = {**self._figures, **(self._rows.figures if self._rows else {})}
        return Group(heads, _figures(figures)) if figures else heads


def _is_over(event: Progress) -> bool:
    return event.total is None or event.done >= event.total


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
    ended = event.total is not None and _is_over(event)
    return "" if ended or event.seconds_left is None else f"{duration(event.seconds_left)} left"


def _figures(figures: Mapping[str, Value]) -> RenderableType:
    """Figures side by side; in a narrow terminal they break between two, never inside one."""
    from rich.columns import Columns
    from rich.text import Text

    shown = (
        Text.assemble((f"{name} ", "dim"), shown_value(value)) for name, value in figures.items()
    )
    return Columns(shown, padding=(0, 2))
