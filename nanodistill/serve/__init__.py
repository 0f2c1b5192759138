"""The student behind OpenAI's chat interface, on this machine.

server              serve(): load the model, listen, end cleanly
served_model        which model, and how it was trained to be asked
app                 the HTTP side: limits, callers, routes, key, body, queue, streams
protocol            requests read, answers and errors written, in OpenAI's words
completions         from a request to an answer or a stream of it
guided_decoding     only tokens that a JSON schema allows are drawn (llguidance)
reasoning_parser    thinking and content told apart while they come
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.serve.app import Limits
    from nanodistill.serve.server import serve, serve_async

HOMES = {"Limits": "app", "serve": "server", "serve_async": "server"}

__all__ = ["Limits", "serve", "serve_async"]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
