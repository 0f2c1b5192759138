"""What a model's folder says of it, read from the headers of its files: no weight is loaded.

What of the student is trained: adapters, or all weights of its last layers.

mlx-lm makes the layers (`linear_to_lora_layers`) and its loader reads what
`save_adapter` writes. `target_modules` may be bare (`q_proj`) or dotted
(`self_attn.q_proj`), as users of other libraries know them; mlx-lm knows paths
inside a block alone, so they are looked up in the model.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from nanodistill.config.settings import suggest
from nanodistill.errors import ConfigError, ModelError, Problem
from nanodistill.run_dir import read_json, write_atomic
from nanodistill.training.training_options import TrainingOptions

LAYER = re.compile(r"\blayers\.(\d+)\.")
MODULE = re.compile(r".*\blayers\.\d+\.(.+)\.weight\Z")

UNTRAINABLE = {
    "bitnet": "its ternary layers are a kernel without a gradient",
    "rwkv7": "its recurrence is a kernel without a gradient on Apple GPUs",
}
"""Architectures that mlx-lm runs and can't train."""


@dataclass(frozen=True)
class Matrix:
    """A linear layer of a block: its path inside the block, and its measures."""

    layer: int
    module: str
    outputs: int
    inputs: int


@dataclass(frozen=True)
class ModelMetadata:
    """A model's measures. `parameters` counts weights as they are once unpacked."""

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
        """Paths inside a block for modules named bare or dotted."""
        paths = {matrix.module for matrix in self.matrices}
        return sorted(path for path in paths if any(is_called(path, name) for name in names))

    @property
    def stored(self) -> str:
        return f"{self.bits} bits" if self.bits else f"{8 * self.bytes // self.parameters} bits"


def read_model_metadata(folder: Path) -> ModelMetadata:
    """The facts of the model in `folder`.

    Raises:
        ModelError: a file can't be read as what it should be.
    """
    whole = read_json(folder / "config.json")
    config: Mapping[str, Any] = whole.get("text_config", whole)
    quantization = whole.get("quantization") or {}
    group = quantization.get("group_size", 0)
    shapes, size = _shapes(folder)
    try:
        heads = config["num_attention_heads"]
        return ModelMetadata(
            architecture=whole["model_type"],
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config.get("intermediate_size", 4 * config["hidden_size"]),
            heads=heads,
            vocabulary=config["vocab_size"],
            context=config.get("max_position_embeddings"),
            parameters=sum(_parameters(name, shapes, group) for name in shapes),
            bytes=size,
            bits=quantization.get("bits"),
            matrices=tuple(_matrices(shapes, group)),
        )
    except KeyError as missing:
        raise ModelError(f"{folder / 'config.json'} has no {missing}.") from missing


def is_called(path: str, name: str) -> bool:
    """Whether `name`, bare or dotted from the block or from the model, means that path."""
    return path == name or path.endswith(f".{name}") or name.endswith(f".{path}")


Shapes = dict[str, tuple[int, ...]]


def _shapes(folder: Path) -> tuple[Shapes, int]:
    """The shapes of all arrays, and the bytes of the files they are in."""
    shapes: Shapes = {}
    size = 0
    for path in sorted(folder.glob("model*.safetensors")):
        size += path.stat().st_size
        for name, entry in _header(path).items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
    return shapes, size


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: its length in 8 bytes, then JSON."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as broken:
        raise ModelError(f"{path} can't be read: {broken}") from broken
    return header


def _parameters(name: str, shapes: Shapes, group: int) -> int:
    if name.endswith((".scales", ".biases")):
        return 0
    scales = shapes.get(name.removesuffix("weight") + "scales")
    return _size(scales) * group if scales is not None else _size(shapes[name])


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _matrices(shapes: Shapes, group: int) -> Iterator[Matrix]:
    for name, shape in shapes.items():
        layer, module = LAYER.search(name), MODULE.match(name)
        if layer is None or module is None or len(shape) != 2:
            continue
        scales = shapes.get(name.removesuffix("weight") + "scales")
        inputs = shape[1] if scales is None else scales[1] * group
        yield Matrix(int(layer[1]), module[1], shape[0], inputs)


WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


def prepare(model: Module, options: TrainingOptions) -> dict[str, Any]:
    """Freeze `model` but for what `options` train; what an adapter's config says about it.

    The adapters' first values follow from the seed.

    Raises:
        ConfigError: `target_modules` names something that the model does not have.
    """
    layers = trained_layers(model, options)
    config = {
        "fine_tune_type": options.settings.fine_tune_type,
        "num_layers": layers,
        "lora_parameters": None,
    }
    mx.random.seed(options.seed)
    model.freeze()
    if options.settings.fine_tune_type == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
        return config
    parameters = dict(options.mlx_lm(1)["lora_parameters"])
    if options.settings.target_modules is not None:
        parameters["keys"] = module_paths(model, options.settings.target_modules)
    dora = options.settings.fine_tune_type == "dora"
    try:
        linear_to_lora_layers(model, layers, parameters, use_dora=dora)
    except ValueError as refused:
        problem = Problem("fine_tune_type" if dora else "target_modules", str(refused))
        raise ConfigError("The student can't be trained so:", [problem]) from refused
    return config | {"lora_parameters": parameters}


def trained_layers(model: Module, options: TrainingOptions) -> int:
    """How many of the last layers: no more than there are."""
    depth = len(model.layers)
    return depth if options.beyond.all_layers else min(options.settings.lora_layers, depth)


def module_paths(model: Module, names: Sequence[str]) -> list[str]:
    """Paths inside a block for modules named bare or dotted, from the block or from the model."""
    paths = sorted({path for layer in model.layers for path in _linear_paths(layer)})
    found = {name: [path for path in paths if is_called(path, name)] for name in names}
    known = sorted({path.rsplit(".", 1)[-1] for path in paths})
    problems = [
        Problem(
            "target_modules",
            f"the student has no {name}{suggest(name, known)}; it has {', '.join(known)}",
        )
        for name, matches in found.items()
        if not matches
    ]
    if problems:
        raise ConfigError("The student lacks modules that should get adapters:", problems)
    return sorted({path for matches in found.values() for path in matches})


def _linear_paths(layer: Module) -> list[str]:
    return [
        path
        for path, module in layer.named_modules()
        if "weight" in module and (isinstance(module, LINEAR) or "to_lora" in dir(module))
    ]


LINEAR = (Linear, QuantizedLinear)


def trainable(model: Module) -> dict[str, mx.array]:
    """The trained weights by path."""
    return dict(tree_flatten(model.trainable_parameters()))


def adapter_config(config: Mapping[str, Any], options: TrainingOptions, student: str) -> str:
    """adapter_config.json, as mlx_lm's loader takes it; the rest of it is for people.

    Args:
        student: what `mlx_lm.load` takes for the base; see `ResolvedModel.for_mlx_lm`.
    """
    whole = {"model": student, **config, "train_on": options.settings.train_on}
    return json.dumps(whole, indent=2) + "\n"


def write_adapter(folder: Path, weights: Path, config: str) -> None:
    """Make `folder` an adapter that `mlx_lm.load(model, adapter_path=folder)` takes.

    The config is the same through a run and comes first; a reader sees the old weights or the
    new ones.
    """
    write_atomic(folder / CONFIG, config.encode())
    write_atomic(folder / WEIGHTS, weights.read_bytes())
