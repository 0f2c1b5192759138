"""The tensors of a GGUF file, written as MLX's safetensors one at a time.

Each GGUF block of 32 weights is `q * d` or `q * d + m` with one byte or half a
byte for q: just what MLX's affine quantization with groups of 32 is, so Q4_0,
Q4_1 and Q8_0 are repacked without a change of any value. A matrix is in memory
once, whatever the size of the model.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nanodistill.errors import ModelError

if TYPE_CHECKING:
    from gguf import ReaderTensor
    from numpy.typing import NDArray

    Array = NDArray[Any]

GROUP = 32

OUTSIDE_BLOCKS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONSUMED = {"rope_freqs.weight"}
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
STORED = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}


@dataclass(frozen=True)
class Part:
    """One tensor of the safetensors file: its name, type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = BYTES[self.dtype]
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Piece:
    """A tensor of the GGUF file and the parts it becomes."""

    module: str
    parts: tuple[Part, ...]
    make: Callable[[], tuple[Array, ...]]
    bits: int | None


def write_weights(
    tensors: Sequence[ReaderTensor],
    row_orders: Mapping[str, Callable[[Any], Any]],
    target: Path,
    source: Path,
) -> dict[str, Any]:
    """Write all tensors to `target` and return what the config must say of them.

    `row_orders` maps the name of a tensor in a block (`attn_q`) to what puts its
    rows in order.
    """
    dtype = _main_dtype(tensors)
    pieces = [
        _piece(tensor, row_orders, dtype, source)
        for tensor in tensors
        if tensor.name not in CONSUMED
    ]
    with target.open("wb") as file:
        _write_safetensors(file, pieces)
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return {"torch_dtype": names[dtype]} | _quantization(pieces)


def _main_dtype(tensors: Sequence[ReaderTensor]) -> str:
    """The type of most matrices; scales of quantized ones are float16."""
    types = Counter(
        STORED.get(tensor.tensor_type.name, "F16") for tensor in tensors if len(tensor.shape) > 1
    )
    return types.most_common(1)[0][0]


def _quantization(pieces: Sequence[Piece]) -> dict[str, Any]:
    bits = Counter(piece.bits for piece in pieces if piece.bits is not None)
    if not bits:
        return {}
    usual = bits.most_common(1)[0][0]
    exceptions = {
        piece.module: {"group_size": GROUP, "bits": piece.bits}
        for piece in pieces
        if piece.bits is not None and piece.bits != usual
    }
    return {"quantization": {"group_size": GROUP, "bits": usual} | exceptions}


def _piece(
    tensor: ReaderTensor,
    row_orders: Mapping[str, Callable[[Any], Any]],
    main_dtype: str,
    source: Path,
) -> Piece:
    module, leaf, local = _names(tensor.name, source)
    order = row_orders.get(local, lambda rows: rows)
    name = f"{module}.{leaf}"
    shape = tuple(int(n) for n in reversed(tensor.shape))
    kind = tensor.tensor_type.name
    if kind in BITS:
        bits = BITS[kind]
        packed = (shape[0], shape[1] * bits // 32)
        groups = (shape[0], shape[1] // GROUP)
        parts = (
            Part(name, "U32", packed),
            Part(f"{module}.scales", "F16", groups),
            Part(f"{module}.biases", "F16", groups),
        )
        return Piece(
            module,
            parts,
            lambda: tuple(order(array) for array in _repack(kind, tensor.data)),
            bits,
        )
    dtype = _dtype_of(tensor, main_dtype)
    return Piece(
        module,
        (Part(name, dtype, shape),),
        lambda: (order(_plain(tensor, dtype, shape)),),
        None,
    )


def _names(name: str, source: Path) -> tuple[str, str, str]:
    """Module and leaf in Hugging Face's words, and the name inside its block."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    block, local, leaf = match.groups() if match else (None, name, "")
    known = OUTSIDE_BLOCKS if block is None else IN_BLOCK
    if local not in known:
        raise ModelError(f"{source}: tensor {name} has no place in a Llama-family model")
    place = "" if block is None else f"model.layers.{block}."
    return f"{place}{known[local]}", leaf, local


def _repack(kind: str, data: Array) -> tuple[Array, Array, Array]:
    """Packed weights, scales and biases of blocks of 32 (ggml-common.h: block_q4_0, …)."""
    import numpy as np

    rows = data.shape[0]
    header = {"Q4_0": 2, "Q4_1": 4, "Q8_0": 2}[kind]
    blocks = data.reshape(rows, -1, header + GROUP * BITS[kind] // 8)
    numbers = np.ascontiguousarray(blocks[..., :header]).view(np.float16)
    codes = np.ascontiguousarray(blocks[..., header:])
    scales = numbers[..., 0]
    if kind == "Q8_0":
        packed = codes ^ np.uint8(0x80)  # signed to offset by 128
        biases = scales * np.float16(-128)
    else:
        packed = _pack_nibbles(codes)
        biases = numbers[..., 1] if kind == "Q4_1" else scales * np.float16(-8)
    words = np.ascontiguousarray(packed).view(np.uint32).reshape(rows, -1)
    return words, scales, biases


def _pack_nibbles(codes: Array) -> Array:
    """GGUF's byte i holds weights i and i + 16 of a block; MLX's holds 2i and 2i + 1."""
    import numpy as np

    weights: Array = np.concatenate([codes & 0x0F, codes >> 4], axis=-1)
    packed: Array = weights[..., 0::2] | (weights[..., 1::2] << 4)
    return packed


def _dtype_of(tensor: ReaderTensor, main_dtype: str) -> str:
    """Norms and biases, always float32 in GGUF, take the matrices' type if that loses nothing:
    otherwise they would pull every activation up to float32."""
    dtype = STORED.get(tensor.tensor_type.name, "F16")
    if dtype == "F32" and len(tensor.shape) == 1 and _fits(tensor.data, main_dtype):
        return main_dtype
    return dtype


def _fits(values: Array, dtype: str) -> bool:
    import numpy as np

    if dtype == "F16":
        with np.errstate(over="ignore"):
            return bool(np.all(values.astype(np.float16).astype(np.float32) == values))
    return dtype == "F32" or not np.any(values.view(np.uint32) & np.uint32(0xFFFF))


def _plain(tensor: ReaderTensor, dtype: str, shape: tuple[int, ...]) -> Array:
    """The tensor's numbers in `dtype`; bfloat16 as its 16 bits."""
    import numpy as np
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    if kind == "BF16":
        return np.ascontiguousarray(tensor.data).view(np.uint16).reshape(shape)
    values = tensor.data if kind in STORED else dequantize(tensor.data, tensor.tensor_type)
    values = np.ascontiguousarray(values).reshape(shape)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype == "F16" else np.float32)


def _write_safetensors(file: BinaryIO, pieces: Sequence[Piece]) -> None:
    """The format of https://huggingface.co/docs/safetensors: a header's length, the header as
    JSON, the tensors' bytes. Written here because the library wants all tensors at once."""
    header = json.dumps(dict(_entries(pieces)), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for piece in pieces:
        for part, array in zip(piece.parts, piece.make(), strict=True):
            data = array.tobytes()
            if len(data) != part.nbytes:
                raise AssertionError(f"{part.name}: {len(data)} bytes, {part.nbytes} announced")
            file.write(data)


def _entries(pieces: Sequence[Piece]) -> Iterator[tuple[str, Any]]:
    yield "__metadata__", {"format": "mlx"}
    offset = 0
    for piece in pieces:
        for part in piece.parts:
            end = offset + part.nbytes
            yield (
                part.name,
                {"dtype": part.dtype, "shape": part.shape, "data_offsets": [offset, end]},
            )
            offset = end
