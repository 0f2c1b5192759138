"""The commands that work on a run, from plan to report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from nanodistill.cli.command import (
    CommandResult,
    RunContext,
    cli,
    command,
    listening,
    output_options,
)


@command("synth", fields=("task", "teacher", "data"))
@click.option("--limit", type=click.IntRange(min=1), help="A preview: make and show this many.")
def synth(work: RunContext, limit: int | None) -> CommandResult:
    """Ask the teacher and make a dataset version."""
    from nanodistill import api

    result = api.synthesize(work.config, limit=limit, on_event=work.on_event)
    if limit:
        work.on_event(result.preview_table())
    return CommandResult(
        result.to_json(), result.summary(), work.then("synth" if limit else "train")
    )


def students_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """`--student` and `--train-on`, each of them as often as there are students to compare."""
    students = click.option(
        "--student", "students", multiple=True, help="This student instead (repeatable)."
    )
    train_on = click.option(
        "--train-on",
        multiple=True,
        type=click.Choice(["cot", "answer"]),
        help="On this instead (repeatable).",
    )
    return students(train_on(body))


@command("train", fields=("training", "machine"))
@click.option("--dataset", help="A version's name or folder, or a Hub id with @revision.")
@click.option("--dry-run", is_flag=True, help="Stop after the preflight table.")
@students_options
def train(
    work: RunContext,
    dataset: str | None,
    dry_run: bool,
    students: tuple[str, ...],
    train_on: tuple[str, ...],
) -> CommandResult:
    """Train the student, or one after another several, on a dataset version."""
    from nanodistill import api
    from nanodistill.students import expand_variants, iterate_students

    results = {
        name: api.train(config, dataset=dataset, dry_run=dry_run, on_event=work.on_event)
        for name, config in iterate_students(
            expand_variants(work.config, students, train_on), work.on_event
        )
    }
    following = work.then("train" if dry_run else "eval") + _again(students, train_on)
    return _ending_of_each(results, following)


@command("eval", fields=("delivery",))
@click.option("--dataset", help="A version's name or folder, or a Hub id with @revision.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Evaluate this adapter folder.")
@click.option("--model", help="Evaluate this model in the student's place.")
@click.option("--endpoint", metavar="URL", help="Evaluate what an OpenAI-compatible server says.")
@click.option("--teacher", is_flag=True, help="Ask the teacher the same rows too; it is paid for.")
@click.option("--baseline", type=click.Choice(["seeds"]),
              help="Train a student on the seeds alone, too, and compare with it.")  # fmt: skip
@students_options
def evaluate(
    work: RunContext, students: tuple[str, ...], train_on: tuple[str, ...], **judged: Any
) -> CommandResult:
    """Compare the student with its base on the test split, and several students with each other."""
    from nanodistill import api
    from nanodistill.students import expand_variants, iterate_students, students_table

    results = {
        name: api.evaluate(config, on_event=work.on_event, **judged)
        for name, config in iterate_students(
            expand_variants(work.config, students, train_on), work.on_event
        )
    }
    if len(results) > 1:
        work.on_event(students_table(results))
    return _ending_of_each(results, f'{work.then("ask")} "…"')


class Result(Protocol):
    def to_json(self) -> dict[str, Any]: ...
    def summary(self) -> str: ...


def _ending_of_each(results: Mapping[str, Result], following: str) -> CommandResult:
    """A single result as it is; several under `students`, by their names."""
    if len(results) == 1:
        (result,) = results.values()
        return CommandResult(result.to_json(), result.summary(), following)
    values = {"students": {name: result.to_json() for name, result in results.items()}}
    told = (f"{name}: {result.summary()}" for name, result in results.items())
    return CommandResult(values, "\n".join(told), following)


def _again(students: Sequence[str], train_on: Sequence[str]) -> str:
    """The same students for the next command."""
    words = [word for name in students for word in ("--student", name)]
    words += [word for name in train_on for word in ("--train-on", name)]
    return "".join(f" {word}" for word in map(shlex.quote, words))


@command("distill")
def distill(work: RunContext) -> CommandResult:
    """Synthesize, train and evaluate, each where it stands."""
    from nanodistill.api import distill_config

    result = distill_config(work.config, on_event=work.on_event)
    return CommandResult(result.to_json(), result.summary(), f'{work.then("ask")} "…"')


@command("ask", to_stderr=True, fields=("delivery",))
@click.argument("text")
@click.option("--base", is_flag=True, help="Ask the untrained model instead.")
def ask(work: RunContext, text: str, base: bool) -> CommandResult:
    """Answer TEXT with the student."""
    from nanodistill import api

    answer = api.ask(work.config, text, base=base, on_event=work.on_event)
    return CommandResult(answer.to_json(), answer.output)


@command("plan", fields=("task", "teacher", "data"))
@click.option("--prompts", type=click.IntRange(min=1), help="Print the first N prompts, too.")
def plan(work: RunContext, prompts: int | None) -> CommandResult:
    """What synthesis would ask and cost, without asking."""
    from nanodistill import api

    estimate = api.plan(work.config, prompts=prompts or 0, on_event=work.on_event)
    return CommandResult(estimate.to_json(), estimate.summary(), work.then("synth"))


@command("status")
def status(work: RunContext) -> CommandResult:
    """What is done, what is left, what it cost."""
    from nanodistill import status as module

    state = module.status_of(work.config, work.then)
    for table in state.tables():
        work.on_event(table)
    return CommandResult(state.to_json(), state.summary(), state.next)


@cli.command("doctor")
@output_options
def doctor() -> CommandResult:
    """Chip, memory, BLAS, keys, models at hand."""
    from nanodistill.system_report import inspect_system

    findings = inspect_system()
    with listening() as on_event:
        on_event(findings.table())
    return CommandResult(findings.to_json())


@command("report")
def report(work: RunContext) -> CommandResult:
    """Write report.html, one file, with what the run has so far."""
    from nanodistill import api

    written = api.report(work.config)
    return CommandResult(written.to_json(), written.summary())
