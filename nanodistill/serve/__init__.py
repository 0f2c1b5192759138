"""The student behind OpenAI's chat interface, on this machine.

serving      serve(): load the model, listen, end cleanly
served       which model, and how it was trained to be asked
limits       how much the server takes on
app          the HTTP side: routes, key, body, queue, streams
wire         requests read, answers and errors written, in OpenAI's words
answering    from a request to an answer or a stream of it
schema       what answer is wanted: free text, any JSON, JSON of a schema
constraint   only tokens that the schema allows are drawn (llguidance)
splitting    thinking and content told apart while they come
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.serve.limits import Limits
    from nanodistill.serve.serving import serve, serve_async

HOMES = {"Limits": "limits", "serve": "serving", "serve_async": "serving"}

__all__ = ["Limits", "serve", "serve_async"]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
