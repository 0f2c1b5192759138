"""The commands that work on a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from nanodistill.cli.command import Ending, Work, cli, command, listening, output_options


@command("synth")
@click.option("--limit", type=click.IntRange(min=1), help="A preview: make and show this many.")
def synth(work: Work, limit: int | None) -> Ending:
    """Ask the teacher and make a dataset version."""
    from nanodistill import api

    result = api.synthesize(work.config, limit=limit, listen=work.listen)
    if limit:
        work.listen(result.preview_table())
    return Ending(result.to_json(), result.summary(), work.then("synth" if limit else "train"))


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


@command("train")
@click.option("--dataset", help="A version's name or folder, or a Hub id with @revision.")
@click.option("--dry-run", is_flag=True, help="Stop after the preflight table.")
@students_options
def train(
    work: Work,
    dataset: str | None,
    dry_run: bool,
    students: tuple[str, ...],
    train_on: tuple[str, ...],
) -> Ending:
    """Train the student, or one after another several, on a dataset version."""
    from nanodistill import api
    from nanodistill.students import one_by_one, variants

    results = {
        name: api.train(config, dataset=dataset, dry_run=dry_run, listen=work.listen)
        for name, config in one_by_one(variants(work.config, students, train_on), work.listen)
    }
    following = work.then("train" if dry_run else "eval") + _again(students, train_on)
    return _ending_of_each(results, following)


@command("eval")
@click.option("--dataset", help="A version's name or folder, or a Hub id with @revision.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Evaluate this adapter folder.")
@click.option("--model", help="Evaluate this model in the student's place.")
@click.option("--endpoint", metavar="URL", help="Evaluate what an OpenAI-compatible server says.")
@click.option("--teacher", is_flag=True, help="Ask the teacher the same rows too; it is paid for.")
@students_options
def evaluate(
    work: Work, students: tuple[str, ...], train_on: tuple[str, ...], **judged: Any
) -> Ending:
    """Compare the student with its base on the test split, and several students with each other."""
    from nanodistill import api
    from nanodistill.students import comparison, one_by_one, variants

    results = {
        name: api.evaluate(config, listen=work.listen, **judged)
        for name, config in one_by_one(variants(work.config, students, train_on), work.listen)
    }
    if len(results) > 1:
        work.listen(comparison(results))
    return _ending_of_each(results, f'{work.then("ask")} "…"')


class Result(Protocol):
    def to_json(self) -> dict[str, Any]: ...
    def summary(self) -> str: ...


def _ending_of_each(results: Mapping[str, Result], following: str) -> Ending:
    """A single result as it is; several under `students`, by their names."""
    if len(results) == 1:
        (result,) = results.values()
        return Ending(result.to_json(), result.summary(), following)
    values = {"students": {name: result.to_json() for name, result in results.items()}}
    told = (f"{name}: {result.summary()}" for name, result in results.items())
    return Ending(values, "\n".join(told), following)


def _again(students: Sequence[str], train_on: Sequence[str]) -> str:
    """The same students for the next command."""
    words = [word for name in students for word in ("--student", name)]
    words += [word for name in train_on for word in ("--train-on", name)]
    return "".join(f" {word}" for word in map(shlex.quote, words))


@command("distill")
def distill(work: Work) -> Ending:
    """Synthesize, train and evaluate, each where it stands."""
    from nanodistill.distilling import distill_config

    result = distill_config(work.config, listen=work.listen)
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

    state = module.status_of(work.config, work.then)
    for table in state.tables():
        work.listen(table)
    return Ending(state.to_json(), state.summary(), state.next)


@cli.command("doctor")
@output_options
def doctor() -> Ending:
    """Chip, memory, BLAS, keys, models at hand."""
    from nanodistill.doctor import examine

    findings = examine()
    with listening() as listen:
        listen(findings.table())
    return Ending(findings.to_json())
