"""A GGUF file of the Llama family becomes an MLX folder.

The folder contains what mlx_lm loads: config.json, model.safetensors, tokenizer.json and
tokenizer_config.json. llama.cpp's converter permutes the rows of q and k for some
architectures; they are restored to Hugging Face's order, without which the model
loads but answers nonsense. Tensors in Q4_0, Q4_1 and Q8_0 keep their bits as MLX
quantization. The other quantized formats have no equivalent in MLX and are written as
float16.

A file with settings that change the computation and have no place in the folder's
config is an error that names them: a model that is almost right is worse than none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.errors import ModelError
from nanodistill.models.gguf.tokenizer_files import write_tokenizer
from nanodistill.models.gguf.weights import write_weights

if TYPE_CHECKING:
    from gguf import ReaderTensor

CONVERTER = 1  # raise it when the same file would be converted into something else

MAGIC = b"GGUF"

RowOrder = Callable[[Any], Any]


@dataclass(frozen=True)
class Architecture:
    """A GGUF architecture's names in MLX, and whether llama.cpp permutes its q and k rows."""

    model_type: str
    class_name: str
    permuted: bool


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", permuted=True),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", permuted=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", permuted=False),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", permuted=False),
}


class GgufFile:
    """The metadata and tensors of one file.

    Raises:
        ModelError: it is not a GGUF file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{path} is not a GGUF file")
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise ModelError(f"{path} is damaged or truncated: {error}") from error

    @property
    def tensors(self) -> Sequence[ReaderTensor]:
        return self._reader.tensors

    def __contains__(self, key: str) -> bool:
        return key in self._reader.fields

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise ModelError(f"{self.path}: its metadata lacks {key}")
        return self._reader.fields[key].contents()

    def get(self, key: str, default: Any) -> Any:
        if key not in self:
            return default
        return self[key]

    def tensor(self, name: str) -> ReaderTensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def convert_gguf(source: Path, folder: Path) -> None:
    """Convert the model in `source` into `folder`, which must exist and be empty.

    Raises:
        ModelError: the file is damaged, or can't be converted.
    """
    file = GgufFile(source)
    architecture = _architecture(file)
    config = _config(file, architecture)
    row_orders: dict[str, RowOrder] = {}
    if architecture.permuted:
        row_orders["attn_q"] = _unpermute(config["num_attention_heads"])
        row_orders["attn_k"] = _unpermute(config["num_key_value_heads"])
    config |= write_weights(file.tensors, row_orders, folder / "model.safetensors", source)
    config |= write_tokenizer(file, folder)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _architecture(file: GgufFile) -> Architecture:
    name = str(file["general.architecture"])
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"{file.path}: architecture {name!r} can't be converted from GGUF, only {known}",
            next_step="Use the model's Hugging Face repository or an MLX folder instead.",
        )
    if int(file.get("split.count", 0)) > 1:
        raise ModelError(
            f"{file.path} is one of {file['split.count']} parts",
            next_step="Join the parts first: llama-gguf-split --merge FIRST_PART OUTPUT",
        )
    return ARCHITECTURES[name]


def _config(file: GgufFile, architecture: Architecture) -> dict[str, Any]:
    prefix = str(file["general.architecture"])

    def number(key: str) -> Any:
        return _uniform(file, f"{prefix}.{key}")

    _check_convertible(file, prefix)
    heads = int(number("attention.head_count"))
    hidden = int(number("embedding_length"))
    kv_heads = f"{prefix}.attention.head_count_kv"
    key_length = f"{prefix}.attention.key_length"
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "num_hidden_layers": int(number("block_count")),
        "intermediate_size": int(number("feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(_uniform(file, kv_heads)) if kv_heads in file else heads,
        "head_dim": int(file[key_length]) if key_length in file else hidden // heads,
        "rms_norm_eps": float(number("attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(number("context_length")),
        "rope_theta": float(file.get(f"{prefix}.rope.freq_base", 10000.0)),
    }
    rotated = int(file.get(f"{prefix}.rope.dimension_count", config["head_dim"]))
    if rotated != config["head_dim"]:
        raise ModelError(
            f"{file.path} rotates {rotated} of {config['head_dim']} dimensions of a head; "
            "only full rotation can be converted"
        )
    scaling = _rope_scaling(file, prefix, config)
    return config | ({"rope_scaling": scaling} if scaling else {}) | _from_tensors(file)


def _uniform(file: GgufFile, key: str) -> Any:
    """A number that may be stored once per layer, and must then be the same for all."""
    value = file[key]
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise ModelError(f"{file.path}: {key} differs from layer to layer, which MLX can't load")
    return value[0]


def _check_convertible(file: GgufFile, prefix: str) -> None:
    """Settings that MLX's config lacks must have the value that changes nothing."""
    neutral = {
        "expert_count": 0,
        "attention.scale": 0.0,
        "logit_scale": 1.0,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.yarn_log_multiplier": 0.0,
    }
    for name, value in neutral.items():
        key = f"{prefix}.{name}"
        if key in file and file[key] not in (value, 0):
            raise ModelError(f"{file.path} sets {key} = {file[key]}, which can't be converted")


def _from_tensors(file: GgufFile) -> dict[str, Any]:
    embedding = file.tensor("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{file.path} has no token_embd.weight, so it is not a complete model")
    config: dict[str, Any] = {
        "vocab_size": int(embedding.shape[1]),
        "tie_word_embeddings": file.tensor("output.weight") is None,
    }
    if file["general.architecture"] in ("llama", "smollm3"):
        config["attention_bias"] = file.tensor("blk.0.attn_q.bias") is not None
        config["mlp_bias"] = file.tensor("blk.0.ffn_gate.bias") is not None
    return config


def _rope_scaling(file: GgufFile, prefix: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    factors = file.tensor("rope_freqs.weight")
    if factors is not None:
        return _llama3_scaling(file.path, [float(f) for f in factors.data], config)
    kind = str(file.get(f"{prefix}.rope.scaling.type", "none"))
    factor = float(file.get(f"{prefix}.rope.scaling.factor", 1.0))
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = int(file[f"{prefix}.rope.scaling.original_context_length"])
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": float(file.get(f"{prefix}.rope.scaling.yarn_beta_fast", 32.0)),
            "beta_slow": float(file.get(f"{prefix}.rope.scaling.yarn_beta_slow", 1.0)),
        }
    raise ModelError(f"{file.path} scales rope by {kind!r}, which can't be converted")


def _llama3_scaling(
    path: Path, factors: Sequence[float], config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The settings of Llama 3's rope scaling, recovered from its factors.

    GGUF stores only the resulting factor of each frequency. All models scaled like this use the
    band from 1 to 4 and differ in factor and original length.
    """
    if all(factor == 1.0 for factor in factors):
        return None
    for original in (8192, 4096, 2048, 16384, 32768, 65536, 131072):
        scaling = {
            "rope_type": "llama3",
            "factor": max(factors),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        }
        expected = llama3_factors(scaling, config["rope_theta"], config["head_dim"])
        if len(expected) == len(factors) and all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, factors, strict=True)
        ):
            return scaling
    raise ModelError(f"{path}: its rope_freqs.weight is not Llama 3's, and can't be converted")


def llama3_factors(scaling: Mapping[str, Any], theta: float, dims: int) -> list[float]:
    """Meta's `apply_scaling` (llama-models, models/llama3/model.py), as factors."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]

    def one(i: int) -> float:
        wavelength = 2 * math.pi * theta ** (i / dims)
        if wavelength < original / high:
            return 1.0
        if wavelength > original / low:
            return float(factor)
        smooth = (original / wavelength - low) / (high - low)
        return float(1 / ((1 - smooth) / factor + smooth))

    return [one(i) for i in range(0, dims, 2)]


def _unpermute(heads: int) -> RowOrder:
    """Undo llama.cpp's interleaving of the two halves of a head's rows.

    Works on any array whose first axis is the rows: weights, packed weights, biases.
    """

    def reorder(rows: Any) -> Any:
        halves = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    return reorder
