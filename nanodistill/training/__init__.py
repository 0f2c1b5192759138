"""LoRA training on MLX-LM's own loop, in a child process that the command supervises.

    trainer             train(): preflight, supervise, result
    training_options    what is trained and how, resolved from configuration and hardware
    tokenize            rows become tokens, under the student's tokenizer and template
    preflight           what would go wrong, before the model is loaded
    runs                the folder of a training run, and the index of all
    student_identity    which student it is, and the date of its template
    supervisor          starts the child, follows it, decides what its death means
    worker              the child: loads the student and trains it
    loop                updates, validation, checkpoints, inside mlx-lm's loop
    batches, forward, optimizer, adapters, checkpoints, resource_guard, metrics_log    its parts
    validation_score    the task score of the validation rows

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
