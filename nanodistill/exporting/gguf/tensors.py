"""The weights of a fused model as GGUF tensors, one at a time.

Names are llama.cpp's; rows of q and k are put into its order for the
architectures that have one of their own. Matrices take the wanted type, norms
and biases stay float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

from nanodistill.errors import ModelError
from nanodistill.exporting.fuse import plain
from nanodistill.exporting.gguf.architectures import (
    architecture,
    head_size,
    kv_heads,
    rope_kind,
    rope_scaling,
    rope_theta,
)
from nanodistill.exporting.job import GgufType
from nanodistill.models.gguf import llama3_factors
from nanodistill.models.gguf_weights import GROUP, IN_BLOCK, OUTSIDE_BLOCKS

if TYPE_CHECKING:
    from nanodistill.exporting.fuse import Fused

Kind = GGMLQuantizationType
Floats = NDArray[np.float32]
RowOrder = Callable[[Floats], Floats]

NAMES = {module: name for name, module in OUTSIDE_BLOCKS.items()}
NAMES_IN_BLOCK = {module: name for name, module in IN_BLOCK.items()}
KINDS = {"f16": Kind.F16, "q8_0": Kind.Q8_0}
LARGEST_F16 = 65504.0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file: its name, shape and type, and its numbers when they are taken.

    `module` holds them as `leaf`, unevaluated, and gives them up when they are taken.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    module: Any
    leaf: str
    order: RowOrder

    @property
    def nbytes(self) -> int:
        size, nbytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // size * nbytes

    def take(self) -> NDArray[Any]:
        """The numbers as the file has them, once.

        Raises:
            ModelError: one is too large for float16.
        """
        values = self.order(np.array(self.module[self.leaf].astype(mx.float32)))
        self.module[self.leaf] = mx.array(0)
        if self.kind == Kind.F16 and np.abs(values).max() > LARGEST_F16:
            raise ModelError(
                f"{self.name} holds {np.abs(values).max():.0f}, and float16 ends at {LARGEST_F16}.",
                next_step="Export with --gguf-type q8_0.",
            )
        return quantize(np.ascontiguousarray(values), self.kind)


def tensors(fused: Fused, wanted: GgufType) -> list[Tensor]:
    """All tensors of the model. They are the model's own: it is used up by taking them.

    Raises:
        ModelError: a weight has no place in a Llama-family GGUF file.
    """
    orders = _row_orders(fused.config)
    return [
        tensor
        for path, module in fused.model.named_modules()
        if "weight" in module
        for tensor in _of_module(gguf_name(path), plain(module), wanted, orders)
    ]


def _of_module(
    name: str, module: Any, wanted: GgufType, orders: Mapping[str, RowOrder]
) -> Iterator[Tensor]:
    order = orders.get(name.rpartition(".")[2], _as_is)
    for leaf in ("weight", "bias"):
        if leaf in module:
            shape = tuple(module[leaf].shape)
            yield Tensor(f"{name}.{leaf}", shape, _kind(shape, wanted), module, leaf, order)


def _kind(shape: tuple[int, ...], wanted: GgufType) -> Kind:
    """The type of a tensor: rows that don't divide into blocks stay float16."""
    if len(shape) == 1:
        return Kind.F32
    return Kind.F16 if shape[-1] % GROUP else KINDS[wanted]


def rope_factors(config: Mapping[str, Any]) -> Floats | None:
    """Llama 3's scaling of rope, which GGUF keeps as a tensor of its results."""
    scaling = rope_scaling(config)
    if scaling is None or rope_kind(config) != "llama3":
        return None
    return np.array(llama3_factors(scaling, rope_theta(config), head_size(config)), np.float32)


def gguf_name(path: str) -> str:
    """llama.cpp's name of the module at `path`, without `.weight`."""
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", path)
    known, local = (NAMES_IN_BLOCK, block[2]) if block else (NAMES, path)
    if local not in known:
        raise ModelError(f"{path} has no place in a Llama-family GGUF file.")
    return f"blk.{block[1]}.{known[local]}" if block else known[local]


def _row_orders(config: Mapping[str, Any]) -> dict[str, RowOrder]:
    if not architecture(config).permuted:
        return {}
    q, k = int(config["num_attention_heads"]), kv_heads(config)
    return {"attn_q": lambda rows: permuted(rows, q), "attn_k": lambda rows: permuted(rows, k)}


def _as_is(rows: Floats) -> Floats:
    return rows


def permuted(rows: Floats, heads: int) -> Floats:
    """The two halves of each head's rows interleaved, as llama.cpp keeps them."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
