"""A trained student as files that run elsewhere: an MLX folder, a GGUF file, Ollama.

    pipeline            export(): from a training run to a checked result
    targets             what each kind of export makes, where, and how it is scored
    trained_adapter     which adapter on which base, and what it learned from
    worker              the process that makes files
    mlx_folder          fused weights, in the smallest form that keeps the score
    tokenizer_export    tokenizer, special tokens and chat template beside the weights
    gguf_writer, gguf_vocabulary    a GGUF file of a Llama-family student
    llama_cpp           llama.cpp's converter, and llama.cpp itself as a check
    ollama              a Modelfile beside the GGUF file
    parity              the exported model is scored before it replaces anything
    export_manifest     nanodistill.json: where an exported model comes from

The package is called `exporting` because `export` is the function it exports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.exporting.pipeline import ExportResult, export

__all__ = ["ExportResult", "export"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from nanodistill.exporting import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
