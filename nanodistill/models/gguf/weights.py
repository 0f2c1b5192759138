"""The tensors of a GGUF file, written as MLX's safetensors one at a time.

A GGUF block of 32 weights is `q * d` or `q * d + m` with a byte or half a byte for q.
That is MLX's affine quantization with groups of 32, so Q4_0, Q4_1 and Q8_0 are repacked
without changing a value. Only one matrix is in memory at a time, whatever the size of
the model.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nanodistill.errors import ModelError

if TYPE_CHECKING:
    from gguf import ReaderTensor
    from numpy.typing import NDArray

    Array = NDArray[Any]

GROUP = 32  # weights that share a scale, in GGUF's blocks and MLX's groups

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
class OutputTensor:
    """One tensor of the safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor of the GGUF file, and what it becomes: three tensors if quantized, else one."""

    module: str
    outputs: tuple[OutputTensor, ...]
    convert: Callable[[], tuple[Array, ...]]
    bits: int | None


def write_weights(
    tensors: Sequence[ReaderTensor],
    row_orders: Mapping[str, Callable[[Any], Any]],
    target: Path,
    source: Path,
) -> dict[str, Any]:
    """Write all tensors to `target`.

    Args:
        row_orders: functions that reorder a tensor's rows, by its name in a block (`attn_q`).
        source: the GGUF file, for messages.

    Returns:
        What config.json must say about the weights.
    """
    # The type of most matrices. The scales of quantized ones are float16.
    types = Counter(STORED.get(t.tensor_type.name, "F16") for t in tensors if len(t.shape) > 1)
    dtype = types.most_common(1)[0][0]
    converted = [
        _converted(tensor, row_orders, dtype, source)
        for tensor in tensors
        if tensor.name not in CONSUMED
    ]
    with target.open("wb") as file:
        _write_safetensors(file, converted)
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    config: dict[str, Any] = {"torch_dtype": names[dtype]}
    counts = Counter(tensor.bits for tensor in converted if tensor.bits is not None)
    if counts:
        usual = counts.most_common(1)[0][0]
        config["quantization"] = {"group_size": GROUP, "bits": usual} | {
            tensor.module: {"group_size": GROUP, "bits": tensor.bits}
            for tensor in converted
            if tensor.bits not in (None, usual)
        }
    return config


def _converted(
    tensor: ReaderTensor,
    row_orders: Mapping[str, Callable[[Any], Any]],
    main_dtype: str,
    source: Path,
) -> ConvertedTensor:
    module, leaf, local = _names(tensor.name, source)
    order = row_orders.get(local, lambda rows: rows)
    name = f"{module}.{leaf}"
    shape = tuple(int(n) for n in reversed(tensor.shape))
    kind = tensor.tensor_type.name
    if kind in BITS:
        bits = BITS[kind]
        words = (shape[0], shape[1] * bits // 32)
        groups = (shape[0], shape[1] // GROUP)
        outputs = (
            OutputTensor(name, "U32", words),
            OutputTensor(f"{module}.scales", "F16", groups),
            OutputTensor(f"{module}.biases", "F16", groups),
        )
        return ConvertedTensor(
            module,
            outputs,
            lambda: tuple(order(array) for array in _repack(kind, tensor.data)),
            bits,
        )
    # Norms and biases are always float32 in GGUF. They take the matrices' type if that loses
    # nothing; otherwise they would pull every activation up to float32.
    dtype = STORED.get(kind, "F16")
    if dtype == "F32" and len(shape) == 1 and _is_exact_in(main_dtype, tensor.data):
        dtype = main_dtype
    return ConvertedTensor(
        module,
        (OutputTensor(name, dtype, shape),),
        lambda: (order(_values(tensor, dtype, shape)),),
        None,
    )


def _names(name: str, source: Path) -> tuple[str, str, str]:
    """Hugging Face's names of module and leaf, and GGUF's name inside its block."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    block, local, leaf = match.groups() if match else (None, name, "")
    known = OUTSIDE_BLOCKS if block is None else IN_BLOCK
    if local not in known:
        raise ModelError(f"{source}: tensor {name} is not part of a Llama-family model")
    prefix = "" if block is None else f"model.layers.{block}."
    return f"{prefix}{known[local]}", leaf, local


def _repack(kind: str, data: Array) -> tuple[Array, Array, Array]:
    """Packed weights, scales and biases of blocks of 32.

    The formats are ggml's (ggml-common.h: block_q4_0, block_q4_1, block_q8_0).
    """
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


def _is_exact_in(dtype: str, values: Array) -> bool:
    """Whether float32 `values` survive conversion to `dtype`."""
    import numpy as np

    if dtype == "F16":
        with np.errstate(over="ignore"):
            return bool(np.all(values.astype(np.float16).astype(np.float32) == values))
    return dtype == "F32" or not np.any(values.view(np.uint32) & np.uint32(0xFFFF))


def _values(tensor: ReaderTensor, dtype: str, shape: tuple[int, ...]) -> Array:
    """The tensor in `dtype`; bfloat16 as its 16 bits."""
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


def _write_safetensors(file: BinaryIO, tensors: Sequence[ConvertedTensor]) -> None:
    """Write the format of https://huggingface.co/docs/safetensors.

    That is the header's length, the header as JSON, and the tensors' bytes. The library is not
    used because it wants all tensors at once.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for output in (output for tensor in tensors for output in tensor.outputs):
        end = offset + output.nbytes
        entries[output.name] = {
            "dtype": output.dtype,
            "shape": output.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for tensor in tensors:
        for output, array in zip(tensor.outputs, tensor.convert(), strict=True):
            data = array.tobytes()
            if len(data) != output.nbytes:
                raise AssertionError(f"{output.name}: {len(data)} bytes, not {output.nbytes}")
            file.write(data)
