"""LoRA training on MLX-LM's own loop, in a child process that the command supervises.

    trainer      train(): preflight, supervise, result
    options      what is trained and how, resolved from configuration and hardware
    encode       rows become tokens, under the student's tokenizer and template
    preflight    what would go wrong, before the model is loaded
    runs         the folder of a training run, and the index of all
    supervisor   the parent's side: starts the child, follows it, mends what it died of
    child        the child's side: loads the student and trains it
    loop         updates, validation, checkpoints, inside mlx-lm's loop
    batches, loss, optimizer, adapters, checkpoints, guard, metrics    its parts

The parent imports mlx for nothing but the tokenizer's loader and never holds
the model: what the child takes is gone when it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.training.trainer import TrainingResult, train

__all__ = ["TrainingResult", "train"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from nanodistill.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
