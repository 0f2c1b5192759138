"""LoRA training on MLX-LM's own loop, in a separate process that the command supervises.

    trainer             train(): preflight, supervise, result
    preflight           what can go wrong, before the model is loaded
    estimate            memory, disk and time that a run will need
    training_options    settings of a run, resolved; what job.json tells the training process
    student_identity    which student a run trains, and the date of its template
    runs                the folder of a training run, and the index of all
    tokenize            rows become tokens, under the student's tokenizer and template
    worker              the training process
    loop                updates, validation, checkpoints, inside mlx-lm's loop
    batches, forward, mlx_setup, checkpoints, resource_guard, metrics_log    its parts

The command never holds the model: the memory that training takes is free when its
process ends.
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
