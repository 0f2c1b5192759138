"""Which models our writer can write, and what a GGUF file says of their shape.

What would change the computation and has no place in the file is refused by
name, with the way to llama.cpp's own converter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanodistill.errors import ModelError
from nanodistill.models.gguf import ARCHITECTURES

if TYPE_CHECKING:
    from gguf import GGUFWriter

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
