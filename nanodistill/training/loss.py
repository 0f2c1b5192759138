"""Cross-entropy on the target tokens, without the output layer's work on all others.

A prompt of 100 tokens with an answer of 3 needs 3 rows of logits. mlx-lm's loss
computes 103, over a vocabulary of tens of thousands: on a CPU more than half of
a step. So the model's body runs on the whole batch and its output layer on the
places that predict targets alone.

That is only right for a model whose output is `head(body(tokens))` and nothing
else (Llama, Qwen and many more, not those that cap or scale their logits).
`target_loss` finds out by computing both on a few tokens; where they differ, or
there is no such body, the whole model runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.losses import cross_entropy

Loss = Callable[[Module, mx.array, mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]
"""(model, inputs, where, targets, weights) to (weighted loss, number of targets)."""

TOLERANCE = 1e-3
"""Largest difference of logits, relative to their spread, that is still rounding."""


def target_loss(model: Module, sample: mx.array) -> Loss:
    """The quickest loss that is right for `model`, tried on the tokens of `sample`."""
    return split_loss if _splits(model, sample) else whole_loss


def whole_loss(
    model: Module, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
) -> tuple[mx.array, mx.array]:
    logits = model(inputs[:, :-1])
    return _weighted(logits.reshape(-1, logits.shape[-1])[where], targets, weights)


def split_loss(
    model: Module, inputs: mx.array, where: mx.array, targets: mx.array, weights: mx.array
) -> tuple[mx.array, mx.array]:
    outputs = model["model"](inputs[:, :-1])
    chosen = outputs.reshape(-1, outputs.shape[-1])[where]
    return _weighted(_head(model)(chosen), targets, weights)


def _weighted(logits: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
    losses = cross_entropy(logits.astype(mx.float32), targets)
    return (losses * weights).sum(), (weights > 0).sum()


def _head(model: Any) -> Callable[[mx.array], mx.array]:
    head: Callable[[mx.array], mx.array] = (
        model["lm_head"] if "lm_head" in model else model["model"]["embed_tokens"].as_linear
    )
    return head


def _splits(model: Module, sample: mx.array) -> bool:
    body = model.get("model")
    if not isinstance(body, Module) or not ("lm_head" in model or "embed_tokens" in body):
        return False
    whole = model(sample)
    outputs = body(sample)
    if not isinstance(outputs, mx.array) or outputs.shape[:-1] != whole.shape[:-1]:
        return False
    parts = _head(model)(outputs)
    if parts.shape != whole.shape:
        return False
    apart = mx.abs(whole - parts).max() / (mx.abs(whole).max() + 1e-6)
    return float(apart) < TOLERANCE
