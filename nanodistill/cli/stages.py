"""The commands that work on a run."""

from __future__ import annotations

from pathlib import Path

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
