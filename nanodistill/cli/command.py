"""What every command is made of: its options, how it is called, how it ends.

A command returns a `CommandResult`; `nanodistill.cli.run` shows it. What the command line says
about ending (`--json`, `--quiet`, `--debug`) is in `OutputFlags`, which is known even where the
line can't be parsed.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from nanodistill import __version__

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.events import Listener


@dataclass(frozen=True)
class CommandResult:
    """How a command ended: `values` for `--json`, `text` for a person, the `next` command."""

    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    next: str | None = None


NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class OutputFlags:
    """What a command line says about how to end, known even where it can't be parsed."""

    command: str
    as_json: bool
    quiet: bool
    debug: bool

    @classmethod
    def of(cls, arguments: Sequence[str]) -> OutputFlags:
        flags = {word for word in arguments if word.startswith("-")}
        command = next((word for word in arguments if word not in flags), "")
        return cls(command, "--json" in flags, bool({"--quiet", "-q"} & flags), "--debug" in flags)

    def ended(self, ending: CommandResult) -> int:
        if self.as_json:
            self._print_json(0, None, ending.next, ending.values)
            return 0
        if ending.text:
            print(ending.text)
        if ending.next:
            print(f"Next: {ending.next}")
        return 0

    def failed(
        self,
        code: int,
        message: str,
        next_step: str | None,
        known: Mapping[str, Any] = NOTHING,
    ) -> int:
        """`known` is what there is all the same of the values that a good ending has."""
        if self.debug:
            traceback.print_exc()
        print(f"Error: {message}", file=sys.stderr)
        if next_step:
            print(next_step, file=sys.stderr)
        if self.as_json:
            self._print_json(code, message, next_step, known)
        return code

    def _print_json(
        self, code: int, error: str | None, next_step: str | None, values: Mapping[str, Any]
    ) -> None:
        head = {"command": self.command, "exit": code, "error": error, "next": next_step}
        line = json.dumps(head | dict(values), ensure_ascii=False)
        if not can_be_shown(line, sys.stdout.encoding):
            line = json.dumps(head | dict(values))  # the same, all but ASCII escaped
        print(line, flush=True)


def can_be_shown(text: str, encoding: str | None) -> bool:
    """Whether a stream has a way to write all of `text` (not half a character of a file's name)."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class RunContext:
    """A run file that was read, and the listener that shows what happens."""

    run_file: Path
    config: DistillationConfig
    on_event: Listener
    overrides: tuple[str, ...] = ()

    def then(self, command: str) -> str:
        """The command line that does `command` with the same run file and the same `--set`."""
        words = [str(self.run_file), *(word for one in self.overrides for word in ("--set", one))]
        return f"{program()} {command} {shlex.join(words)}"


def program() -> str:
    """What to type to call this program here: its name where the PATH has it, else its place."""
    if shutil.which("nanodistill"):
        return "nanodistill"
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "nanodistill" else "nanodistill"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nanodistill")
def cli() -> None:
    """Turn about ten seed examples and one instruction into a small model that you own.

    Running a command again goes on where it stopped. Exit codes: 0 done; 2 bad config, input or
    folder, nothing spent; 3 stopped early with the work so far safe; 4 stopped by the memory
    guard; 130 interrupted; 1 anything else.
    """


def output_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, `--quiet` and `--debug`, which every command has: they are in `OutputFlags`."""
    options = [
        click.option("--json", is_flag=True, expose_value=False, help="End with one line of JSON."),
        click.option("--quiet", "-q", is_flag=True, expose_value=False, help=QUIET_HELP),
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
    ]
    for option in reversed(options):
        body = option(body)
    return body


@contextmanager
def listening(*, to_stderr: bool = False) -> Iterator[Listener]:
    """A listener for the current command, on the stream that is for people."""
    from nanodistill.console import console_listener

    asked: OutputFlags = click.get_current_context().obj
    stream = sys.stderr if asked.as_json or to_stderr else sys.stdout
    with console_listener(stream, quiet=asked.quiet) as on_event:
        yield on_event


class RunCommand(click.Command):
    """A command on a run file; its help ends with the fields that it goes by.

    They are read when the help is shown, so that no other command waits for them.
    """

    parts: Sequence[str] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if not self.parts:
            return
        from nanodistill.config.reference import described

        fields = [field for part in self.parts for field in described(part)]
        with formatter.section("Fields of RUN.toml that it goes by, and of --set"):
            formatter.write_dl(fields)


def command(
    name: str, group: click.Group = cli, *, to_stderr: bool = False, fields: Sequence[str] = ()
) -> Callable[[Callable[..., CommandResult]], click.Command]:
    """Make `body(work, **options)` a command on a run file.

    Args:
        fields: parts of the configuration that its help is to list.
    """

    def make(body: Callable[..., CommandResult]) -> click.Command:
        @output_options
        @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
        @click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
        @functools.wraps(body)
        def run(run_file: Path, overrides: tuple[str, ...], **options: Any) -> CommandResult:
            from nanodistill.config import load_config

            config = load_config(run_file, overrides)
            with listening(to_stderr=to_stderr) as on_event:
                return body(RunContext(run_file, config, on_event, overrides), **options)

        made = click.command(name, cls=RunCommand)(run)
        made.parts = tuple(fields)
        group.add_command(made)
        return made

    return make


QUIET_HELP = "Show warnings and results alone."
SET_HELP = "Override a field of the run file (repeatable; dotted for tables; TOML, else text)."
