"""A trained student becomes files that run elsewhere: an MLX folder, a GGUF file, Ollama.

exporting    export(): the sequence from a training run to a checked result
source       which adapter on which base, and what it learned from
forms        the forms to try, from the smallest to the one that loses nothing
maker        the child process that makes files, seen from the parent
child        the same from inside; job: what goes between them
fuse         adapter and base become one model
folder       the fused model's folder: weights, tokenizer, template
parity       the exported model is scored again before anything is replaced
manifest     nanodistill.json: where an exported model comes from
template     the chat template, with the instruction in it on request
gguf         a GGUF file of a Llama-family student, by our own writer
converter    llama.cpp's converter for all others, in an environment of its own
ollama       a Modelfile beside the GGUF file
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.exporting.exporting import Exported, export

__all__ = ["Exported", "export"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from nanodistill.exporting import exporting

        return getattr(exporting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
