"""The student behind OpenAI's chat completions API, on this machine.

server              serve(): load the model, listen, shut down cleanly
served_model        which model is served, and the prompt it was trained with
app                 HTTP: limits, queue, callers, API key, routes, streams
protocol            requests, responses and errors in OpenAI's format
completions         from a request to an answer or a stream of it
guided_decoding     answers that follow a JSON schema (llguidance)
reasoning_parser    thinking and content told apart while text arrives
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.serve.app import Limits
    from nanodistill.serve.server import serve, serve_async

# Imported on first use: the process that checks schemas needs neither aiohttp nor MLX.
MODULES = {"Limits": "app", "serve": "server", "serve_async": "server"}

__all__ = ["Limits", "serve", "serve_async"]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
