"""What a model's folder says of it, read from the headers of its files: no weight is loaded."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.errors import ModelError
from nanodistill.runfolder import read_json

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
class ModelFacts:
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


def read_facts(folder: Path) -> ModelFacts:
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
        return ModelFacts(
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
