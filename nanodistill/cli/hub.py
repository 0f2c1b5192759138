"""The commands that hand things on through the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanodistill.cli.command import Ending, Work, cli, command, listening, output_options

if TYPE_CHECKING:
    from nanodistill.sharing import What


@command("push")
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--what", type=click.Choice(["dataset", "adapter", "fused"]), default="dataset",
    show_default=True, help="The dataset version, the trained adapter, or the exported model.",
)  # fmt: skip
@click.option("--public", is_flag=True, help="For everybody to see; private unless this is given.")
@click.option("--dataset", help="A version in place of the latest.")
@click.option("--run", "run_id", help="A training run's adapter in place of the latest.")
@click.option(
    "--allow", "allowed", multiple=True, metavar="TEXT",
    help="A path or an address that may be public (repeatable).",
)  # fmt: skip
def push(
    work: Work,
    repo: str,
    what: What,
    public: bool,
    dataset: str | None,
    run_id: str | None,
    allowed: tuple[str, ...],
) -> Ending:
    """Put the run's dataset version or its model on the Hub; again, and nothing is sent."""
    from nanodistill.sharing import push_run

    done = push_run(
        work.config,
        repo,
        what,
        public=public,
        dataset=dataset,
        run_id=run_id,
        allowed=allowed,
        listen=work.listen,
    )
    model = " --model" if done.kind == "model" else ""
    fetch = f"nanodistill pull {repo}@{done.tag} --into DIR{model}"
    return Ending(done.to_json(), done.summary(), fetch)


@cli.command("pull")
@output_options
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option(
    "--into", type=click.Path(path_type=Path), required=True, help="The folder to make of it."
)
@click.option("--model", is_flag=True, help="A model, not a dataset version.")
def pull(repo: str, into: Path, model: bool) -> Ending:
    """Fetch a dataset version or a model from the Hub and check it."""
    from nanodistill.hub import pull as fetch

    with listening() as listen:
        done = fetch(repo, into, kind="model" if model else "dataset", listen=listen)
    then = None if model else f"nanodistill train RUN.toml --dataset {into}"
    return Ending(done.to_json(), done.summary(), then)
