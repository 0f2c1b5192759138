"""The commands that hand a trained student on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanodistill.cli.command import Ending, Work, command

if TYPE_CHECKING:
    from nanodistill.exporting.job import GgufType
    from nanodistill.exporting.targets import To


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
    work: Work,
    to: To,
    dataset: str | None,
    run_id: str | None,
    bake_instruction: bool,
    gguf_type: GgufType,
    converter: Path | None,
) -> Ending:
    """Write the trained student as one model, and score it again before it counts."""
    from nanodistill import api
    from nanodistill.exporting.targets import Options

    options = Options(bake_instruction, gguf_type, converter)
    result = api.export(
        work.config, to, options=options, run_id=run_id, dataset=dataset, listen=work.listen
    )
    return Ending(result.to_json(), result.summary(), result.next_command(work.config.name))


@command("serve", to_stderr=True, fields=("delivery",))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="Port to listen on; 0 takes any free one.")  # fmt: skip
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="A name by which clients may call the server, and whose pages may; "
              "repeatable; * is any.")  # fmt: skip
def serve(work: Work, host: str, port: int, allowed_hosts: tuple[str, ...]) -> Ending:
    """Serve the student behind OpenAI's chat interface, until Ctrl-C or SIGTERM.

    NANODISTILL_SERVE_KEY holds the API key that is asked for; unset, none is.
    """
    from nanodistill.runfolder import RunFolder
    from nanodistill.serve import serve as run_server

    served = run_server(
        work.config,
        RunFolder(work.config.run_folder),
        host=host,
        port=port,
        api_key=os.environ.get("NANODISTILL_SERVE_KEY") or None,
        allowed_hosts=allowed_hosts,
        listen=work.listen,
    )
    return Ending({"served": served}, f"{served} requests were answered.")
