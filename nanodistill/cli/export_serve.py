"""The commands that hand a trained student on: export, serve, push, pull."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanodistill.cli.command import (
    CommandResult,
    RunContext,
    cli,
    command,
    listening,
    output_options,
)

if TYPE_CHECKING:
    from nanodistill.exporting.targets import To
    from nanodistill.exporting.worker import GgufType
if TYPE_CHECKING:
    from nanodistill.publish import What


@command("export", fields=("delivery",))
@click.option(
    "--to", type=click.Choice(["mlx", "gguf", "ollama"]), default="mlx", show_default=True,
    help="An MLX folder, a GGUF file for llama.cpp, or that with a Modelfile for Ollama.",
)  # fmt: skip
@click.option("--dataset", help="Score by this version in place of the one that was trained on.")
@click.option("--run", "run_id", help="A training run in place of the latest.")
@click.option(
    "--bake-instruction", is_flag=True, help="Put the instruction into the chat template."
)
@click.option(
    "--gguf-type", type=click.Choice(["f16", "q8_0"]), default="f16", show_default=True,
    help="How a GGUF file stores the weights: 16 bits, or about 8.5.",
)  # fmt: skip
@click.option(
    "--converter", type=click.Path(path_type=Path), metavar="DIR",
    help="Use llama.cpp's converter in this environment; it is made if DIR is not there (6 GB).",
)  # fmt: skip
def export(
    work: RunContext,
    to: To,
    dataset: str | None,
    run_id: str | None,
    bake_instruction: bool,
    gguf_type: GgufType,
    converter: Path | None,
) -> CommandResult:
    """Write the trained student as one model, and score it again before it counts."""
    from nanodistill import api
    from nanodistill.exporting.targets import Options

    options = Options(bake_instruction, gguf_type, converter)
    result = api.export(
        work.config, to, options=options, run_id=run_id, dataset=dataset, on_event=work.on_event
    )
    return CommandResult(result.to_json(), result.summary(), result.next_command(work.config.name))


@command("serve", to_stderr=True, fields=("delivery",))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="Port to listen on; 0 takes any free one.")  # fmt: skip
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="A name by which clients may call the server, and whose pages may; "
              "repeatable; * is any.")  # fmt: skip
def serve(work: RunContext, host: str, port: int, allowed_hosts: tuple[str, ...]) -> CommandResult:
    """Serve the student behind OpenAI's chat interface, until Ctrl-C or SIGTERM.

    NANODISTILL_SERVE_KEY holds the API key that is asked for; unset, none is.
    """
    from nanodistill.run_dir import RunFolder
    from nanodistill.serve import serve as run_server

    served = run_server(
        work.config,
        RunFolder(work.config.run_folder),
        host=host,
        port=port,
        api_key=os.environ.get("NANODISTILL_SERVE_KEY") or None,
        allowed_hosts=allowed_hosts,
        on_event=work.on_event,
    )
    return CommandResult({"served": served}, f"{served} requests were answered.")


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
    work: RunContext,
    repo: str,
    what: What,
    public: bool,
    dataset: str | None,
    run_id: str | None,
    allowed: tuple[str, ...],
) -> CommandResult:
    """Put the run's dataset version or its model on the Hub; again, and nothing is sent."""
    from nanodistill.publish import push_run

    done = push_run(
        work.config,
        repo,
        what,
        public=public,
        dataset=dataset,
        run_id=run_id,
        allowed=allowed,
        on_event=work.on_event,
    )
    model = " --model" if done.kind == "model" else ""
    fetch = f"nanodistill pull {repo}@{done.tag} --into DIR{model}"
    return CommandResult(done.to_json(), done.summary(), fetch)


@cli.command("pull")
@output_options
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option(
    "--into", type=click.Path(path_type=Path), required=True, help="The folder to make of it."
)
@click.option("--model", is_flag=True, help="A model, not a dataset version.")
def pull(repo: str, into: Path, model: bool) -> CommandResult:
    """Fetch a dataset version or a model from the Hub and check it."""
    from nanodistill.hub import pull as fetch

    with listening() as on_event:
        done = fetch(repo, into, kind="model" if model else "dataset", on_event=on_event)
    then = None if model else f"nanodistill train RUN.toml --dataset {into}"
    return CommandResult(done.to_json(), done.summary(), then)
