"""The `nanodistill` command: reads the words, calls the library, says how it ended.

A command returns an `Ending`; an error of ours ends it with that error's exit
code, and nothing else decides exit codes. With `--json` the last line on
standard output is one JSON object, also after a failure, and everything for
people goes to standard error.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanodistill import __version__
from nanodistill.errors import NanoDistillError

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.events import Listener

INTERRUPTED = 130


@dataclass(frozen=True)
class Ending:
    """How a command ended: `values` for `--json`, `text` for a person, the `next` command."""

    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    next: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a command line says about how to end, known even where it can't be parsed."""

    command: str
    as_json: bool
    quiet: bool
    debug: bool

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Asked:
        flags = {word for word in arguments if word.startswith("-")}
        command = next((word for word in arguments if word not in flags), "")
        return cls(command, "--json" in flags, bool({"--quiet", "-q"} & flags), "--debug" in flags)

    def ended(self, ending: Ending) -> int:
        if self.as_json:
            self._print_json(0, None, ending.next, ending.values)
            return 0
        if ending.text:
            print(ending.text)
        if ending.next:
            print(f"Next: {ending.next}")
        return 0

    def failed(self, code: int, message: str, next_step: str | None) -> int:
        if self.debug:
            traceback.print_exc()
        print(f"Error: {message}", file=sys.stderr)
        if next_step:
            print(next_step, file=sys.stderr)
        if self.as_json:
            self._print_json(code, message, next_step, {})
        return code

    def _print_json(
        self, code: int, error: str | None, next_step: str | None, values: Mapping[str, Any]
    ) -> None:
        head = {"command": self.command, "exit": code, "error": error, "next": next_step}
        print(json.dumps(head | dict(values), ensure_ascii=False), flush=True)


@dataclass(frozen=True)
class Work:
    """A run file that was read, and the listener that shows what happens."""

    run_file: Path
    config: DistillationConfig
    listen: Listener

    def then(self, command: str) -> str:
        """The command line that does `command` with the same run file."""
        return f"nanodistill {command} {self.run_file}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nanodistill")
def cli() -> None:
    """Turn about ten seed examples and one instruction into a small model that you own.

    Running a command again goes on where it stopped. Exit codes: 0 done; 2 bad config, input or
    folder, nothing spent; 3 stopped early with the work so far safe; 4 stopped by the memory
    guard; 130 interrupted; 1 anything else.
    """


def output_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, `--quiet` and `--debug`, which every command has: they are in `Asked`."""
    options = [
        click.option("--json", is_flag=True, expose_value=False, help="End with one line of JSON."),
        click.option("--quiet", "-q", is_flag=True, expose_value=False, help=QUIET_HELP),
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
    ]
    for option in reversed(options):
        body = option(body)
    return body


def command(
    name: str, group: click.Group = cli, *, to_stderr: bool = False
) -> Callable[[Callable[..., Ending]], click.Command]:
    """Make `body(work, **options)` a command on a run file."""

    def make(body: Callable[..., Ending]) -> click.Command:
        @output_options
        @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
        @click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
        @functools.wraps(body)
        def run(run_file: Path, overrides: tuple[str, ...], **options: Any) -> Ending:
            from nanodistill.config import load_config
            from nanodistill.progress import shown_on

            asked: Asked = click.get_current_context().obj
            config = load_config(run_file, overrides)
            stream = sys.stderr if asked.as_json or to_stderr else sys.stdout
            with shown_on(stream, quiet=asked.quiet) as listen:
                return body(Work(run_file, config, listen), **options)

        return group.command(name)(run)

    return make


QUIET_HELP = "Show warnings and results alone."
SET_HELP = "Override a field of the run file (repeatable; dotted for tables; TOML, else text)."


@command("synth")
@click.option("--limit", type=click.IntRange(min=1), help="A preview: make and show this many.")
def synth(work: Work, limit: int | None) -> Ending:
    """Ask the teacher and make a dataset version."""
    from nanodistill import api

    result = api.synthesize(work.config, limit=limit, listen=work.listen)
    if limit:
        work.listen(result.preview_table())
    return Ending(result.to_json(), result.summary(), work.then("synth" if limit else "train"))


@command("train")
@click.option("--dataset", help="A version's name or folder, or a Hub id with @revision.")
@click.option("--dry-run", is_flag=True, help="Stop after the preflight table.")
def train(work: Work, dataset: str | None, dry_run: bool) -> Ending:
    """Train the student on a dataset version."""
    from nanodistill import api

    result = api.train(work.config, dataset=dataset, dry_run=dry_run, listen=work.listen)
    return Ending(result.to_json(), result.summary(), work.then("train" if dry_run else "eval"))


@command("eval")
@click.option("--dataset", help="A version's name or folder, or a Hub id with @revision.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Evaluate this adapter folder.")
@click.option("--model", help="Evaluate this model in the student's place.")
def evaluate(work: Work, dataset: str | None, adapter: Path | None, model: str | None) -> Ending:
    """Compare the student with its base on the test split."""
    from nanodistill import api

    result = api.evaluate(
        work.config, dataset=dataset, adapter=adapter, model=model, listen=work.listen
    )
    return Ending(result.to_json(), result.summary(), f'{work.then("ask")} "…"')


@command("distill")
def distill(work: Work) -> Ending:
    """Synthesize, train and evaluate, each where it stands."""
    from nanodistill import api

    result = api.distill_config(work.config, listen=work.listen)
    return Ending(result.to_json(), result.summary(), f'{work.then("ask")} "…"')


@command("ask", to_stderr=True)
@click.argument("text")
@click.option("--base", is_flag=True, help="Ask the untrained model instead.")
def ask(work: Work, text: str, base: bool) -> Ending:
    """Answer TEXT with the student."""
    from nanodistill import api

    answer = api.ask(work.config, text, base=base, listen=work.listen)
    return Ending(answer.to_json(), answer.output)


@command("plan")
def plan(work: Work) -> Ending:
    """What synthesis would ask and cost, without asking."""
    from nanodistill import api

    estimate = api.plan(work.config, listen=work.listen)
    return Ending(estimate.to_json(), estimate.summary(), work.then("synth"))


@command("status")
def status(work: Work) -> Ending:
    """What is done, what is left, what it cost."""
    from nanodistill import status as module

    state = module.status_of(work.config, work.run_file)
    for table in state.tables():
        work.listen(table)
    return Ending(state.to_json(), state.summary(), state.next)


@cli.command("doctor")
@output_options
def doctor() -> Ending:
    """Chip, memory, BLAS, keys, models at hand."""
    from nanodistill.doctor import examine
    from nanodistill.progress import shown_on

    findings = examine()
    asked: Asked = click.get_current_context().obj
    with shown_on(sys.stderr if asked.as_json else sys.stdout, quiet=True) as listen:
        listen(findings.table())
    return Ending(findings.to_json())


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code."""
    asked = Asked.of(arguments)
    try:
        ending = cli.main(
            list(arguments), prog_name="nanodistill", standalone_mode=False, obj=asked
        )
    except NanoDistillError as error:
        return asked.failed(error.exit_code, error.message, error.next_step)
    except click.ClickException as error:
        hint = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else None
        return asked.failed(2, error.format_message(), hint)
    except (click.Abort, KeyboardInterrupt):
        again = f"Go on with: nanodistill {' '.join(arguments)}"
        return asked.failed(INTERRUPTED, "Interrupted; the work so far is safe.", again)
    except Exception as error:  # noqa: BLE001 - the last border: said in a line, shown by --debug
        hint = "This is a fault of NanoDistill; run again with --debug for its traceback."
        return asked.failed(1, f"{type(error).__name__}: {error}", hint)
    return asked.ended(ending) if isinstance(ending, Ending) else int(ending or 0)


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:] or ["--help"]))
