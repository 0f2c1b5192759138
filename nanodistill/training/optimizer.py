"""The optimizer of mlx.optimizers, with what mlx-lm's loop lacks: clipping, and figures.

mlx-lm calls `optimizer.update(model, gradients)` inside its compiled step and
carries `optimizer.state` in and out of it. So what should be known of an update
outside goes through that state: the gradients' norm before clipping and the sum
of the losses of its batches. `rate` scales the learning rate; it is lowered
after a roll-back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import build_schedule

CLASSES: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "sgd": optim.SGD,
    "adafactor": optim.Adafactor,
    "muon": optim.Muon,
}
NORM, LOSS, RUNNING = "gradient_norm", "loss", "running_loss"


def build_optimizer(config: Mapping[str, Any], rate: float) -> optim.Optimizer:
    """The optimizer that a config in mlx-lm's names asks for, with `rate` times its schedule."""
    name = config["optimizer"]
    schedule = build_schedule(config["lr_schedule"]) if "lr_schedule" in config else None
    peak = config["learning_rate"]

    def scaled(step: mx.array) -> mx.array:
        value = peak if schedule is None else schedule(step)
        return mx.array(rate * value, mx.float32)

    return CLASSES[name](learning_rate=scaled, **config["optimizer_config"][name])


class TrackedOptimizer:
    """An optimizer for mlx-lm's loop: clips, and leaves the figures of an update in its state."""

    def __init__(self, optimizer: optim.Optimizer, max_norm: float | None) -> None:
        self._optimizer = optimizer
        self._max_norm = max_norm

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizer.state
        return state

    @property
    def learning_rate(self) -> mx.array:
        rate: mx.array = self._optimizer.learning_rate
        return rate

    def start(self, model: Module, saved: Mapping[str, mx.array] | None) -> None:
        """Begin anew, or where `saved`, from `flat_state`, left off."""
        if saved is not None:
            self._optimizer.state = tree_unflatten(list(saved.items()))
        self._optimizer.init(model.trainable_parameters())
        for figure in (NORM, LOSS, RUNNING):
            self.state[figure] = mx.array(0.0)
        mx.eval(self.state)

    def flat_state(self) -> dict[str, mx.array]:
        """The state without the figures, for a checkpoint."""
        own = {key: value for key, value in self.state.items() if key not in (NORM, LOSS, RUNNING)}
        return dict(tree_flatten(own))

    def add_loss(self, loss: mx.array) -> None:
        """Called for each batch, inside the compiled step."""
        self.state[RUNNING] = self.state[RUNNING] + loss

    def update(self, model: Module, gradients: dict[str, Any]) -> None:
        limit = float("inf") if self._max_norm is None else self._max_norm
        clipped, norm = optim.clip_grad_norm(gradients, limit)
        self.state[NORM] = norm.astype(mx.float32)
        self.state[LOSS], self.state[RUNNING] = self.state[RUNNING], mx.array(0.0)
        self._optimizer.update(model, gradients if self._max_norm is None else clipped)


def accepted_settings(name: str) -> set[str]:
    """What the class of that name takes besides its learning rate."""
    return set(inspect.signature(CLASSES[name]).parameters) - {"learning_rate"}
