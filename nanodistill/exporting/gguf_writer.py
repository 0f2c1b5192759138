"""Writes the weights of a fused Llama-family model as a GGUF file.

What would change the computation and has no place in the file is refused by name, with a pointer to
llama.cpp's own converter. Tensor names are llama.cpp's; the rows of q and k are permuted for the
architectures that want it. Matrices take the chosen type, norms and biases stay float32. Metadata
comes first, then the tensors, of which one is in memory at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
)
from gguf.quants import quantize
from numpy.typing import NDArray

from nanodistill.errors import ModelError
from nanodistill.exporting.gguf_vocabulary import add_tokenizer
from nanodistill.exporting.mlx_folder import to_plain_weights
from nanodistill.exporting.worker import GgufType
from nanodistill.models.gguf.convert import ARCHITECTURES, llama3_factors
from nanodistill.models.gguf.weights import GROUP, IN_BLOCK, OUTSIDE_BLOCKS

if TYPE_CHECKING:
    from gguf import GGUFWriter
if TYPE_CHECKING:
    from nanodistill.exporting.mlx_folder import Fused
if TYPE_CHECKING:
    from nanodistill.exporting.mlx_folder import Fused
    from nanodistill.exporting.worker import GgufType


Config = Mapping[str, Any]

PLAIN_ROPE = ("default", "none", None)
SMOLLM3_STEP = 4
"""llama.cpp leaves rope out in every fourth layer of a SmolLM3; the file can't say otherwise."""


@dataclass(frozen=True)
class Written:
    """A model_type's name in GGUF, and whether the rows of its q and k are permuted there."""

    name: str
    permuted: bool


WRITABLE = {each.model_type: Written(name, each.permuted) for name, each in ARCHITECTURES.items()}
WRITABLE["mistral"] = WRITABLE["llama"]


def architecture(config: Config) -> Written:
    return WRITABLE[config["model_type"]]


def unwritable(config: Config) -> str | None:
    """Why our writer can't write a model with this config.json, None if it can."""
    kind = config["model_type"]
    if kind not in WRITABLE:
        known = ", ".join(sorted(WRITABLE))
        return f"its architecture is {kind!r}, and NanoDistill's own GGUF writer knows {known}"
    for is_wrong, what in REFUSED:
        if is_wrong(config):
            return what
    return None


def check_writable(config: Config, name: str) -> None:
    """Raises ModelError for a model that our writer can't write."""
    why = unwritable(config)
    if why is not None:
        raise ModelError(
            f"{name} can't be written as GGUF: {why}.",
            next_step="llama.cpp's converter may know it; install it (some 6 GB) and use it with "
            "--converter, see docs/serving-and-export.md.",
        )


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def kv_heads(config: Config) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def rope_theta(config: Config) -> float:
    return float(_rope(config).get("rope_theta") or config.get("rope_theta") or 10000.0)


def rope_kind(config: Config) -> str | None:
    rope = _rope(config)
    kind: str | None = rope.get("rope_type", rope.get("type"))
    return kind


def rope_scaling(config: Config) -> Config | None:
    """The scaling of rope, None if it is plain."""
    return None if rope_kind(config) in PLAIN_ROPE else _rope(config)


def _rope(config: Config) -> Config:
    """Newer configs keep theta and scaling in one table, older ones the scaling in another."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _windowed(config: Config) -> bool:
    layers = set(config.get("layer_types") or ["full_attention"])
    slides = config.get("sliding_window") and config.get("use_sliding_window", True)
    asked = config["model_type"] in ("qwen2", "qwen3", "llama") and slides
    return layers != {"full_attention"} or bool(asked and config.get("layer_types") is None)


def _odd_rope_layers(config: Config) -> bool:
    if config["model_type"] != "smollm3":
        return False
    count = config["num_hidden_layers"]
    usual = [int((layer + 1) % SMOLLM3_STEP != 0) for layer in range(count)]
    step = config.get("no_rope_layer_interval", SMOLLM3_STEP)
    return bool(config.get("no_rope_layers", usual) != usual or step != SMOLLM3_STEP)


REFUSED: tuple[tuple[Callable[[Config], bool], str], ...] = (
    (lambda c: c.get("hidden_act", "silu") != "silu", "its activation is not SiLU"),
    (lambda c: bool(c.get("rope_traditional")), "its rope pairs neighbouring dimensions"),
    (lambda c: c.get("partial_rotary_factor", 1) != 1, "only part of its heads is rotated"),
    (_windowed, "its attention slides over a window"),
    (_odd_rope_layers, "it leaves rope out in other layers than llama.cpp does"),
    (
        lambda c: rope_kind(c) not in (*PLAIN_ROPE, "linear", "yarn", "llama3"),
        "it scales rope in a way that has no place in the file",
    ),
)


def add_shape(writer: GGUFWriter, config: Config) -> None:
    """The model's measures, as llama.cpp wants them."""
    size = head_size(config)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(int(config["num_attention_heads"]))
    writer.add_head_count_kv(kv_heads(config))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    _add_scaling(writer, config)


def _add_scaling(writer: GGUFWriter, config: Config) -> None:
    """Linear and yarn scaling; Llama 3's is a tensor, see tensors.py."""
    from gguf import RopeScalingType

    scaling, kind = rope_scaling(config), rope_kind(config)
    if scaling is None or kind == "llama3":
        return
    writer.add_rope_scaling_type(RopeScalingType(kind))
    writer.add_rope_scaling_factor(float(scaling["factor"]))
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings")
        writer.add_rope_scaling_orig_ctx_len(int(original or config["max_position_embeddings"]))


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
        for tensor in _of_module(gguf_name(path), to_plain_weights(module), wanted, orders)
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


FILE_TYPES = {"f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}


def write_gguf(
    fused: Fused, folder: Path, target: Path, kind: GgufType, settings: Mapping[str, Any]
) -> None:
    """Write `fused`, whose tokenizer lies in `folder`, to the file `target`.

    Args:
        settings: `name` of the model and `template` for chats.
    """
    with closing(GGUFWriter(target, architecture(fused.config).name)) as writer:
        writer.add_type("model")
        writer.add_name(settings["name"])
        writer.add_file_type(FILE_TYPES[kind])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_shape(writer, fused.config)
        add_tokenizer(writer, folder, fused.config, settings["template"])
        _write_tensors(writer, fused, kind)


def _write_tensors(writer: GGUFWriter, fused: Fused, kind: GgufType) -> None:
    factors, rest = rope_factors(fused.config), tensors(fused, kind)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in rest:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in rest:
        writer.write_tensor_data(tensor.take())
