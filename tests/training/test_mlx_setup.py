"""What is set in the child: gradient checkpointing, memory limits, the quickest forward pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.contexts import token_rows, untrained
from training.tiny import make_student

from nanodistill.training.loop import Session  # isort: skip

ROOT = Path(__file__).parent.parent.parent

PEAK = """
import sys
from pathlib import Path
from nanodistill.models.blas import load_fast_blas
load_fast_blas()
import mlx.core as mx
from mlx.nn.utils import value_and_grad
from mlx_lm.utils import load_model
from nanodistill.training.mlx_setup import checkpoint_layers
mx.disable_compile()
model = load_model(Path(sys.argv[1]))[0]
if sys.argv[2] == "checkpointed":
    checkpoint_layers(model)
model.train()
mx.eval(model.parameters())
tokens = mx.ones((2, 256), mx.int32)
loss, gradient = value_and_grad(model, lambda _, inputs: model(inputs).sum())(model, tokens)
mx.reset_peak_memory()
mx.eval(loss, gradient)
print(mx.get_peak_memory(), loss.item())
"""

LIMITS = """
from nanodistill.models.blas import load_fast_blas
load_fast_blas()
import mlx.core as mx
from nanodistill.training.resource_guard import ResourceLimits
from nanodistill.training.mlx_setup import prepare_mlx
prepare_mlx(ResourceLimits(2, 3, 1.0))
print(mx.set_memory_limit(0), mx.set_cache_limit(0))
"""


def printed(script: str, *arguments: str) -> list[float]:
    """The numbers that a fresh interpreter prints: what these set is set for a whole process."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def test_gradient_checkpointing_takes_less_memory_for_the_same_loss(tmp_path: Path) -> None:
    deep = make_student(tmp_path / "student", num_hidden_layers=12, hidden_size=64, head_dim=16)
    plain, loss = printed(PEAK, str(deep), "plain")
    checkpointed, same = printed(PEAK, str(deep), "checkpointed")
    assert checkpointed < 0.6 * plain
    assert same == pytest.approx(loss, rel=1e-5)


def test_mlx_is_held_to_the_users_limits() -> None:
    assert printed(LIMITS) == [3 << 30, (2 << 30) / 4]


def test_the_threshold_of_the_cache_reaches_mlx_lms_loop(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    rows = token_rows(student)
    context = untrained(student, tmp_path, rows, mlx_lm_kwargs={"clear_cache_threshold": 1234})
    assert Session(context, None, stored=False).arguments().clear_cache_threshold == 1234
    bare = untrained(student, tmp_path, rows)
    assert Session(bare, None, stored=False).arguments().clear_cache_threshold == 0
