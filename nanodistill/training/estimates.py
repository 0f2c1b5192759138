"""What training will need: memory, disk and time, before anything is loaded.

Rough, and meant to be: they say whether something is worth starting. Memory is
the weights in the form that they will have, the trained weights with gradients
and optimizer state, and the activations that the backward pass keeps, which
only the trained layers do. Time goes by multiplications and by what the machine
does of them in a second: measured on a CPU, from a table for Apple's GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from nanodistill.hardware import Hardware
from nanodistill.training.modelfacts import ModelFacts
from nanodistill.training.options import TrainingOptions

PROCESS_BYTES = 350 << 20
"""Python, MLX and the libraries, in the command and the child together."""
MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1, "muon": 1, "adafactor": 0}
CHECKPOINTS_KEPT = 3
GPU_SHARE, CPU_SHARE = 0.35, 0.25
"""What training reaches of a GPU's peak, and of what all cores could do at small products."""
SIDE, PRODUCTS = 96, 300
"""Of the products that tell a core's speed: a few thousandths of a second."""


@dataclass(frozen=True)
class Load:
    """The work of one run.

    Of a batch: its rows, the widest row's tokens, the targets. Of the whole run: tokens through
    the layers below the trained ones, tokens trained, targets trained, tokens validated.
    """

    rows: int
    width: int
    targets: int
    below_tokens: int
    trained_tokens: int
    trained_targets: int
    scored_tokens: int


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds; `seconds` is None where the machine's speed is unknown."""

    weights: int
    trained: int
    activations: int
    disk: int
    seconds: float | None

    @property
    def memory(self) -> int:
        return PROCESS_BYTES + self.weights + self.trained + self.activations


def estimate(
    facts: ModelFacts, options: TrainingOptions, load: Load, hardware: Hardware
) -> Estimate:
    layers = min(facts.layers, options.settings.lora_layers)
    layers = facts.layers if options.beyond.all_layers else layers
    trained = trained_parameters(facts, options, layers)
    state = 2 + MOMENTS[options.settings.optimizer]
    wide = hardware.kind == "cpu"
    return Estimate(
        weights=facts.parameters * 4 if wide else facts.bytes,
        trained=trained * 4 * state,
        activations=_activations(facts, options, load, layers, 4 if wide else 2),
        disk=CHECKPOINTS_KEPT * trained * 4 * (state - 1) + 4 * load.trained_tokens,
        seconds=_seconds(facts, load, layers, hardware),
    )


def trained_parameters(facts: ModelFacts, options: TrainingOptions, layers: int) -> int:
    """Weights that training changes."""
    chosen = [m for m in facts.matrices if m.layer >= facts.layers - layers]
    if options.settings.fine_tune_type == "full":
        return sum(m.outputs * m.inputs for m in chosen)
    names = options.settings.target_modules
    paths = None if names is None else facts.paths_of(names)
    rank = options.settings.lora_rank
    return sum(rank * (m.outputs + m.inputs) for m in chosen if paths is None or m.module in paths)


def _activations(
    facts: ModelFacts, options: TrainingOptions, load: Load, layers: int, size: int
) -> int:
    """What is alive in the backward pass at its fullest."""
    tokens = load.rows * load.width
    block = 8 * facts.hidden + 5 * facts.intermediate + 2 * facts.heads * load.width
    kept = facts.hidden if options.settings.gradient_checkpointing else block
    logits = 3 * 4 * load.targets * facts.vocabulary
    return tokens * size * (kept * layers + 2 * block) + logits


def _seconds(facts: ModelFacts, load: Load, layers: int, hardware: Hardware) -> float | None:
    speed = speed_of(hardware)
    if speed is None:
        return None
    head = facts.vocabulary * facts.hidden
    layer = max(1, facts.parameters - head) / facts.layers
    below = (facts.layers - layers) * layer * load.below_tokens
    trained = layers * layer * (2 * load.trained_tokens + load.scored_tokens)
    return 2 * (below + trained + 2 * head * load.trained_targets) / speed


def speed_of(hardware: Hardware) -> float | None:
    """Operations a second that training can count on; None if there is no telling."""
    if hardware.kind == "cpu":
        return CPU_SHARE * hardware.cores * measured_speed()
    return None if hardware.tflops is None else GPU_SHARE * hardware.tflops * 1e12


def measured_speed() -> float:
    """Operations of float32 products in a second of one core, by numpy's BLAS.

    In seconds of this thread, and small enough that the BLAS keeps to it: so other work on the
    machine does not change what is measured.
    """
    left, right = np.ones((2, SIDE, SIDE), np.float32)
    product = np.empty((SIDE, SIDE), np.float32)
    return max(2 * SIDE**3 * PRODUCTS / _timed(left, right, product) for _ in range(3))


Floats = NDArray[np.float32]


def _timed(left: Floats, right: Floats, product: Floats) -> float:
    since = thread_time()
    for _ in range(PRODUCTS):
        np.matmul(left, right, out=product)
    return thread_time() - since
