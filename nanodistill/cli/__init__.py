"""The `nanodistill` command: parses the line, calls the library, reports how it ended.

    command         what every command is made of
    stages          plan, synth, train, eval, distill, ask, report, status, doctor
    datasets        dataset show, verify, diff, edit, prune, suspects
    export_serve    export, serve, push, pull

An error of ours ends a command with that error's exit code, and nothing else decides exit codes.
With `--json` the last line on standard output is one JSON object, also after a failure, and
everything for people goes to standard error.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import click

from nanodistill.cli import datasets, export_serve, stages
from nanodistill.cli.command import CommandResult, OutputFlags, cli, program
from nanodistill.cli.pipes import outlives_its_reader
from nanodistill.errors import NanoDistillError, refused_by_system

INTERRUPTED = 130
SLOW_TO_LEAVE = frozenset({"mlx.core", "litellm"})

__all__ = ["cli", "datasets", "export_serve", "main", "run", "stages"]


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code."""
    asked = OutputFlags.of(arguments)
    try:
        ending = cli.main(
            list(arguments), prog_name="nanodistill", standalone_mode=False, obj=asked
        )
    except NanoDistillError as error:
        return asked.failed(error.exit_code, error.message, error.next_step, error.known)
    except click.ClickException as error:
        hint = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else None
        return asked.failed(2, error.format_message(), hint)
    except (click.Abort, KeyboardInterrupt):
        again = f"Go on with: {program()} {' '.join(arguments)}"
        return asked.failed(INTERRUPTED, "Interrupted; the work so far is safe.", again)
    except OSError as error:
        refused = refused_by_system(error)
        return asked.failed(refused.exit_code, refused.message, refused.next_step)
    except Exception as error:  # noqa: BLE001 - the last border: said in a line, shown by --debug
        return fault(asked, error)
    return asked.ended(ending) if isinstance(ending, CommandResult) else int(ending or 0)


def fault(asked: OutputFlags, error: Exception) -> int:
    hint = "This is a fault of NanoDistill; run again with --debug for its traceback."
    return asked.failed(1, f"{type(error).__name__}: {error}", hint)


def main() -> None:
    """The entry point. SIGTERM is Ctrl-C, also where no work has begun that would listen to it.

    So is a closed terminal, where nobody asked to outlive it (nohup): answers on their way are
    paid for, and are waited for.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it by itself
    sys.stdout, sys.stderr = outlives_its_reader(sys.stdout), outlives_its_reader(sys.stderr)
    code = run(sys.argv[1:] or ["--help"])
    if code == INTERRUPTED or not SLOW_TO_LEAVE.isdisjoint(sys.modules) or _is_held_up():
        _leave(code)
    sys.exit(code)


def _is_held_up() -> bool:
    """Whether a thread is left that the interpreter would wait for: a teacher function that was
    given up at its timeout, and may never return."""
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return not all(thread.daemon for thread in others)


def _leave(code: int) -> NoReturn:
    """End without taking the interpreter down.

    MLX's threads now and then abort it then, which would only turn the exit code into -6, and
    to collect LiteLLM's objects takes a second or more, in which a second Ctrl-C seems unheard.
    The work is durable and said by now.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
