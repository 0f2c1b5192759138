"""Models of a few kilobytes, in GGUF and in Hugging Face's form, made where they are needed.

The GGUF files are written the way llama.cpp's converter writes them, so what
our converter makes of them can be compared with the weights they came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]

Kind = GGMLQuantizationType

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """A model's measures. Every matrix is a whole number of GGUF blocks wide."""

    arch: str = "llama"
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    feed_forward: int = 96
    layers: int = 2
    context: int = 512
    tied: bool = True
    matrices: Kind = Kind.F32
    embedding: Kind | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def permuted(self) -> bool:
        return self.arch == "llama"


def weights(tiny: Tiny, vocabulary: int, seed: int = 0) -> Weights:
    """Random weights by Hugging Face's names, large enough that no two tokens are even."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Array:
        values: Array = rng.normal(0, 2 / columns**0.5, (rows, columns)).astype(np.float32)
        return values

    def norm(size: int) -> Array:
        values: Array = rng.normal(1, 0.1, size).astype(np.float16).astype(np.float32)
        return values

    found: Weights = {"model.embed_tokens.weight": matrix(vocabulary, tiny.hidden)}
    q, k = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    for layer in range(tiny.layers):
        block = {
            "self_attn.q_proj": matrix(q, tiny.hidden),
            "self_attn.k_proj": matrix(k, tiny.hidden),
            "self_attn.v_proj": matrix(k, tiny.hidden),
            "self_attn.o_proj": matrix(tiny.hidden, q),
            "mlp.gate_proj": matrix(tiny.feed_forward, tiny.hidden),
            "mlp.up_proj": matrix(tiny.feed_forward, tiny.hidden),
            "mlp.down_proj": matrix(tiny.hidden, tiny.feed_forward),
            "input_layernorm": norm(tiny.hidden),
            "post_attention_layernorm": norm(tiny.hidden),
        }
        if tiny.arch == "qwen3":
            block["self_attn.q_norm"] = norm(tiny.head_dim)
            block["self_attn.k_norm"] = norm(tiny.head_dim)
        found |= {f"model.layers.{layer}.{name}.weight": w for name, w in block.items()}
        if tiny.arch == "qwen2":
            for name, size in (("q", q), ("k", k), ("v", k)):
                found[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = norm(size)
    found["model.norm.weight"] = norm(tiny.hidden)
    if not tiny.tied:
        found["lm_head.weight"] = matrix(vocabulary, tiny.hidden)
    return found


def kind_of(name: str, array: Array, tiny: Tiny) -> Kind:
    if array.ndim == 1:
        return Kind.F32
    if name == "model.embed_tokens.weight" and tiny.embedding is not None:
        return tiny.embedding
    return tiny.matrices


def as_stored(found: Weights, tiny: Tiny) -> Weights:
    """The weights as they are once they have been through their GGUF types."""
    return {
        name: dequantize(quantize(array, kind), kind).reshape(array.shape)
        for name, array in found.items()
        for kind in [kind_of(name, array, tiny)]
    }


def gguf_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{leaf}"
    _, _, layer, local = module.split(".", 3)
    return f"blk.{layer}.{NAMES[local]}.{leaf}"


def permute(rows: Array, heads: int) -> Array:
    """What convert_hf_to_gguf.py does to q and k of a Llama."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path, tiny: Tiny, found: Weights, tokenizer: Mapping[str, Any], **more: Array
) -> None:
    """`tokenizer` holds metadata by their keys after `tokenizer.`; `more` are further tensors."""
    writer = GGUFWriter(path, tiny.arch)
    writer.add_context_length(tiny.context)
    writer.add_embedding_length(tiny.hidden)
    writer.add_block_count(tiny.layers)
    writer.add_feed_forward_length(tiny.feed_forward)
    writer.add_head_count(tiny.heads)
    writer.add_head_count_kv(tiny.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if tiny.hidden != tiny.heads * tiny.head_dim:
        writer.add_key_length(tiny.head_dim)
        writer.add_value_length(tiny.head_dim)
    metadata = {**tiny.extra, **{f"tokenizer.{key}": tokenizer[key] for key in tokenizer}}
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, array in found.items():
        _add_tensor(writer, name, array, tiny)
    for name, array in more.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensor(writer: GGUFWriter, name: str, array: Array, tiny: Tiny) -> None:
    kind = kind_of(name, array, tiny)
    if tiny.permuted and ".q_proj." in name:
        array = permute(array, tiny.heads)
    if tiny.permuted and ".k_proj." in name:
        array = permute(array, tiny.kv_heads)
    if kind == Kind.F32:
        writer.add_tensor(gguf_name(name), array)
    else:
        writer.add_tensor(gguf_name(name), quantize(array, kind), raw_dtype=kind)


def byte_characters() -> list[str]:
    """GPT-2's characters for the 256 bytes, in order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


MERGES = (
    "h e", "Ġ t", "l l", "Ġt he", "o r", "1 2", "12 3", "' s", "Ġ Ġ", "ĠĠ ĠĠ", "w or", "Ċ Ċ",
    "e r", "i n", "Ġ w", "ll o", "he llo", "A B", "a b", "! !", ", Ġ", "Ġ a", "Ã ¤", "2 3",
    "4 5", "123 45", "o W", "' T", "( f", "! Ċ", "!Ċ /", "Ċ /", "Ġ ĠĠ", "p R", "' L",
)  # fmt: skip
"""Some of them join what one way of cutting text joins and another keeps apart."""

UNREACHABLE = "Ġzap"
"""In the vocabulary, but no merges lead to it: only some tokenizers ever use it."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_level(pre: str = "smollm", **more: Any) -> dict[str, Any]:
    """A byte-level BPE vocabulary with a few merges and three control tokens."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*SPECIAL, *byte_characters(), *dict.fromkeys(merged), UNREACHABLE]
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": tokens,
        "ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "ggml.merges": list(MERGES),
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
        "ggml.padding_token_id": 2,
        "ggml.add_bos_token": False,
        "chat_template": TEMPLATE,
    } | more


def sentencepiece(**more: Any) -> dict[str, Any]:
    """A SentencePiece BPE vocabulary: bytes, letters, and pieces whose scores order the merges."""
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.,'!ABC", "0", "1", "2"]
    pieces = ["▁t", "he", "▁the", "in", "er", "▁a", "▁w", "or", "▁wor", "ld", "▁world", "▁▁", "ll"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) + len(letters))
    scores = [0.0] * len(tokens) + [-float(i) for i in range(len(pieces) + len(letters))]
    return {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.tokens": [*tokens, *pieces, *letters],
        "ggml.scores": scores,
        "ggml.token_type": kinds,
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
    } | more
