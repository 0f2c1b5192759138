"""Sparing work changes neither the loss nor its gradient, on every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanodistill.training.tokenize import Example, TokenRows
from training.tiny import make_student

import mlx.core as mx  # isort: skip - after tiny has loaded the BLAS
from mlx.nn.layers.base import Module  # isort: skip
from mlx.nn.utils import value_and_grad  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers  # isort: skip
from mlx_lm.utils import load_model  # isort: skip

from nanodistill.training.batches import assemble  # isort: skip
from nanodistill.training.forward import (
    Forward,
    SplitForward,
    WholeForward,
    select_forward_by_agreement,
)

SHARED = 12
LIKE_LLAMA: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with an output layer of its own": {"tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False},
    "olmo2": {"model_type": "olmo2"},
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "gemma2": {"model_type": "gemma2", "query_pre_attn_scalar": 8.0},
    "mamba2": {
        "model_type": "mamba2", "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1,
        "conv_kernel": 4, "expand": 2, "use_bias": False, "use_conv_bias": True,
        "time_step_limit": [0.0, 1.0], "time_step_rank": 4, "chunk_size": 16,
        "layer_norm_epsilon": 1e-5, "time_step_min": 0.001, "time_step_max": 0.1,
    },
}  # fmt: skip


def rows() -> TokenRows:
    chance = np.random.default_rng(0)
    first = chance.integers(3, 200, SHARED).tolist()
    rest = [chance.integers(3, 200, n).tolist() for n in (9, 14, 5, 20)]
    return TokenRows.from_examples([Example(first + own, SHARED + 3) for own in rest])


def student(folder: Path, shape: dict[str, Any], dropout: float = 0.0) -> Module:
    """A model with adapters that do something on the last of its three layers."""
    model: Module = load_model(make_student(folder / "student", **shape))[0]
    model.freeze()
    linear_to_lora_layers(model, 1, {"rank": 2, "scale": 4.0, "dropout": dropout})
    mx.random.seed(3)
    changed = [
        (name, mx.random.normal(array.shape) * 0.1)
        for name, array in dict(tree_flatten(model.trainable_parameters())).items()
    ]
    model.load_weights(changed, strict=False)
    mx.eval(model.parameters())
    return model


def loss_and_gradient(
    model: Module, forward: Forward, split: str = "sample"
) -> tuple[float, dict[str, mx.array]]:
    own = rows().without_prefix(forward.prefix)
    batch = assemble(own, [0, 1, 2, 3], weight=0.1, multiple=1)
    arrays = forward.arrays(split, batch)
    loss, gradient = value_and_grad(model, lambda *_: forward.loss(*arrays)[0])(model)
    return float(loss), dict(tree_flatten(gradient))


def assert_same(model: Module, forward: Forward, split: str = "sample") -> None:
    loss, gradient = loss_and_gradient(model, WholeForward(model))
    other, found = loss_and_gradient(model, forward, split)
    assert other == pytest.approx(loss, rel=1e-5)
    assert found.keys() == gradient.keys()
    for name, array in gradient.items():
        scale = float(mx.abs(array).max())
        assert scale > 1e-6, f"{name} has no gradient to compare"
        assert float(mx.abs(found[name] - array).max()) < 1e-4 * scale, name


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("shape", LIKE_LLAMA.values(), ids=LIKE_LLAMA)
def test_a_plain_model_is_spared_all_it_can_be(
    tmp_path: Path, shape: dict[str, Any], on_cpu: bool
) -> None:
    model = student(tmp_path, shape)
    chosen = select_forward_by_agreement(model, rows(), shared=SHARED, frozen=2, on_cpu=on_cpu)
    assert isinstance(chosen, SplitForward)
    assert (chosen.prefix, chosen.frozen) == (SHARED, 2)
    assert_same(model, chosen)


@pytest.mark.parametrize(("shared", "frozen"), [(0, 2), (SHARED, 0), (SHARED, 2), (0, 0)])
def test_sharing_and_layers_below_go_without_each_other(
    tmp_path: Path, shared: int, frozen: int
) -> None:
    model = student(tmp_path, {})
    chosen = select_forward_by_agreement(model, rows(), shared=shared, frozen=frozen, on_cpu=True)
    assert isinstance(chosen, SplitForward)
    assert (chosen.prefix, chosen.frozen) == (shared, frozen)
    assert_same(model, chosen)


def test_kept_outputs_of_the_layers_below_are_what_they_compute(tmp_path: Path) -> None:
    model = student(tmp_path, {})
    forward = SplitForward(model, rows()[0][:SHARED], 2, on_cpu=True)
    forward.keep("train", rows().without_prefix(SHARED), lambda: None)
    assert_same(model, forward, "train")


@pytest.mark.parametrize("shape", OTHERWISE.values(), ids=OTHERWISE)
def test_a_model_of_another_kind_is_taken_as_it_is(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = student(tmp_path, shape)
    chosen = select_forward_by_agreement(model, rows(), shared=SHARED, frozen=2, on_cpu=True)
    assert chosen.prefix == 0
    assert not isinstance(chosen, SplitForward) or chosen.frozen == 0
    assert_same(model, chosen)


def test_a_sliding_window_sees_as_far_as_it_should(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    model = student(tmp_path, {"sliding_window": 6, "layer_types": kinds})
    chosen = select_forward_by_agreement(model, rows(), shared=SHARED, frozen=0, on_cpu=True)
    assert_same(model, chosen)


def test_logits_that_are_capped_are_left_to_the_model(tmp_path: Path) -> None:
    """The cap changes small logits by a few millionths, which a look at the loss would miss."""
    model = student(tmp_path, OTHERWISE["gemma2"])
    chosen = select_forward_by_agreement(model, rows(), shared=SHARED, frozen=2, on_cpu=True)
    assert isinstance(chosen, WholeForward)
