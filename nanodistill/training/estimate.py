"""What a run will need: memory, disk and time, estimated before the model is loaded.

The student's dimensions come from config.json and the headers of its safetensors
files, so no weight is read. The estimates are rough on purpose: they say whether a
run is worth starting. Memory counts weights, trained weights with their gradients
and optimizer state, and the activations that the backward pass keeps, which only
trained layers do. Time counts multiplications, at a speed measured on a CPU and
taken from a table for Apple's GPUs.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

from nanodistill.errors import ModelError
from nanodistill.hardware import Hardware
from nanodistill.run_dir import read_json
from nanodistill.training.training_options import TrainingOptions

LAYER = re.compile(r"\blayers\.(\d+)\.")
MODULE = re.compile(r".*\blayers\.\d+\.(.+)\.weight\Z")

# Architectures that mlx-lm runs but can't train, and why.
UNTRAINABLE = {
    "bitnet": "its ternary layers are a kernel without a gradient",
    "rwkv7": "its recurrence is a kernel without a gradient on Apple GPUs",
}
PROCESS_BYTES = 350 << 20  # Python, MLX and the libraries, command and training process together
MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1, "muon": 1, "adafactor": 0}  # arrays per trained weight
CHECKPOINTS_KEPT = 3  # the last two and the best, as in checkpoints.py
# The share of a GPU's peak, or of all cores at small products, that training reaches. The source
# of these two is lost. They scale the time in preflight and nothing else: at half their value it
# doubles.
GPU_SHARE, CPU_SHARE = 0.35, 0.25
# The products that measure a core's speed take a few milliseconds. Matrices are small enough for a
# BLAS to stay on one thread; larger ones would be spread over cores that other programs use.
SIDE, PRODUCTS = 96, 300


@dataclass(frozen=True)
class Matrix:
    """A linear layer of a block: its path inside the block, and its shape."""

    layer: int
    module: str
    outputs: int
    inputs: int


@dataclass(frozen=True)
class ModelMetadata:
    """A model's dimensions. `parameters` counts weights as they are once dequantized."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    context: int | None
    parameters: int
    bytes: int
    bits: int | None
    matrices: tuple[Matrix, ...]

    def paths_of(self, names: Sequence[str]) -> list[str]:
        """Paths inside a block of the modules that `names` name."""
        paths = {matrix.module for matrix in self.matrices}
        return sorted(path for path in paths if any(names_module(name, path) for name in names))

    @property
    def stored(self) -> str:
        return f"{self.bits} bits" if self.bits else f"{8 * self.bytes // self.parameters} bits"


def names_module(name: str, path: str) -> bool:
    """Whether `name`, bare (`q_proj`) or dotted from the block or the model, means `path`."""
    return path == name or path.endswith(f".{name}") or name.endswith(f".{path}")


def read_model_metadata(folder: Path) -> ModelMetadata:
    """Read the dimensions of the model in `folder` from its config and file headers.

    Raises:
        ModelError: a file is not what it should be.
    """
    whole = read_json(folder / "config.json")
    config: Mapping[str, Any] = whole.get("text_config", whole)
    quantization = whole.get("quantization") or {}
    group = quantization.get("group_size", 0)
    files = sorted(folder.glob("model*.safetensors"))
    shapes = {
        name: tuple(entry["shape"])
        for path in files
        for name, entry in _safetensors_header(path).items()
        if name != "__metadata__"
    }
    try:
        return ModelMetadata(
            architecture=whole["model_type"],
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config.get("intermediate_size", 4 * config["hidden_size"]),
            heads=config["num_attention_heads"],
            vocabulary=config["vocab_size"],
            context=config.get("max_position_embeddings"),
            parameters=sum(_parameters(name, shapes, group) for name in shapes),
            bytes=sum(path.stat().st_size for path in files),
            bits=quantization.get("bits"),
            matrices=tuple(_matrices(shapes, group)),
        )
    except KeyError as missing:
        raise ModelError(f"{folder / 'config.json'} has no {missing}.") from missing


Shapes = Mapping[str, tuple[int, ...]]


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: its length in 8 bytes, little endian, then JSON.

    https://huggingface.co/docs/safetensors
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    return header


def _parameters(name: str, shapes: Shapes, group: int) -> int:
    """Weights in one array, dequantized; a scale stands for `group` of them."""
    if name.endswith((".scales", ".biases")):
        return 0
    scales = shapes.get(name.removesuffix("weight") + "scales")
    return math.prod(shapes[name]) if scales is None else math.prod(scales) * group


def _matrices(shapes: Shapes, group: int) -> Iterator[Matrix]:
    for name, shape in shapes.items():
        layer, module = LAYER.search(name), MODULE.match(name)
        if layer is None or module is None or len(shape) != 2:
            continue
        scales = shapes.get(name.removesuffix("weight") + "scales")
        inputs = shape[1] if scales is None else scales[1] * group
        yield Matrix(int(layer[1]), module[1], shape[0], inputs)


@dataclass(frozen=True)
class Workload:
    """The work of one run, in tokens.

    Attributes:
        rows: rows in a batch.
        width: tokens in the longest row.
        targets: target tokens in the batch with most of them.
        below_tokens: through the layers below the trained ones, in the whole run.
        trained_tokens: through the trained layers, forward and backward.
        trained_targets: targets of the loss.
        scored_tokens: through the trained layers in validations, forward only.
    """

    rows: int
    width: int
    targets: int
    below_tokens: int
    trained_tokens: int
    trained_targets: int
    scored_tokens: int


@dataclass(frozen=True)
class ResourceEstimate:
    """Bytes and seconds; `seconds` is None if the machine's speed is unknown."""

    weights: int
    trained: int
    activations: int
    disk: int
    seconds: float | None

    @property
    def memory(self) -> int:
        return PROCESS_BYTES + self.weights + self.trained + self.activations


def estimate(
    model: ModelMetadata, options: TrainingOptions, load: Workload, hardware: Hardware
) -> ResourceEstimate:
    """Estimate what training `model` needs."""
    layers = min(model.layers, options.settings.lora_layers)
    layers = model.layers if options.overrides.all_layers else layers
    trained = trained_parameters(model, options, layers)
    state = 2 + MOMENTS[options.settings.optimizer]  # weight, gradient, moments
    on_cpu = hardware.kind == "cpu"  # where a model is converted to float32; see models/loading.py

    # What is alive at the fullest point of the backward pass: the outputs that each trained layer
    # keeps, two blocks at work, and three copies of the logits in float32.
    tokens = load.rows * load.width
    block = 8 * model.hidden + 5 * model.intermediate + 2 * model.heads * load.width
    kept = model.hidden if options.settings.gradient_checkpointing else block
    activations = tokens * (4 if on_cpu else 2) * (kept * layers + 2 * block)
    logits = 3 * 4 * load.targets * model.vocabulary

    return ResourceEstimate(
        weights=model.parameters * 4 if on_cpu else model.bytes,
        trained=trained * 4 * state,
        activations=activations + logits,
        disk=CHECKPOINTS_KEPT * trained * 4 * (state - 1) + 4 * load.trained_tokens,
        seconds=_seconds(model, load, layers, hardware),
    )


def trained_parameters(model: ModelMetadata, options: TrainingOptions, layers: int) -> int:
    """Weights that training changes."""
    chosen = [m for m in model.matrices if m.layer >= model.layers - layers]
    if options.settings.fine_tune_type == "full":
        return sum(m.outputs * m.inputs for m in chosen)
    names = options.settings.target_modules
    paths = None if names is None else model.paths_of(names)
    rank = options.settings.lora_rank
    return sum(rank * (m.outputs + m.inputs) for m in chosen if paths is None or m.module in paths)


def _seconds(model: ModelMetadata, load: Workload, layers: int, hardware: Hardware) -> float | None:
    if hardware.kind == "cpu":
        speed = CPU_SHARE * hardware.cores * measured_speed()
    elif hardware.tflops is not None:
        speed = GPU_SHARE * hardware.tflops * 1e12
    else:
        return None
    head = model.vocabulary * model.hidden
    layer = max(1, model.parameters - head) / model.layers
    below = (model.layers - layers) * layer * load.below_tokens
    trained = layers * layer * (2 * load.trained_tokens + load.scored_tokens)
    return 2 * (below + trained + 2 * head * load.trained_targets) / speed


def measured_speed() -> float:
    """Float32 operations a second of one core, by numpy's BLAS.

    Measured in this thread's processor time, so other work on the machine doesn't change it.
    """
    left, right = np.ones((2, SIDE, SIDE), np.float32)
    product = np.empty((SIDE, SIDE), np.float32)
    best = math.inf
    for _ in range(3):
        since = thread_time()
        for _ in range(PRODUCTS):
            np.matmul(left, right, out=product)
        best = min(best, thread_time() - since)
    return 2 * SIDE**3 * PRODUCTS / best
