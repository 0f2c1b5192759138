"""What a GGUF file holds, and what comes out of the folder made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.conftest import MakeGguf
from models.tiny import Array, Kind, Tiny, Weights, as_stored, byte_level, weights, write_gguf
from nanodistill.errors import ModelError
from nanodistill.models.gguf.convert import convert_gguf
from nanodistill.models.loading import load_model

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module

TOKENS = [[5, 9, 77, 100, 33, 270, 8, 12]]


def converted(source: Path) -> Path:
    folder = source.with_suffix("")
    folder.mkdir()
    convert_gguf(source, folder)
    return folder


def logits(model: Module) -> Array:
    import mlx.core as mx

    return np.array(model(mx.array(TOKENS))[0])


def from_weights(folder: Path, found: Weights) -> Module:
    """The model of the converted config around the weights that the GGUF file was made from."""
    import mlx.core as mx
    from mlx_lm.utils import _get_classes

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    build, arguments = _get_classes(config)
    model: Module = build(arguments.from_dict(config))
    model.load_weights([(name, mx.array(array)) for name, array in found.items()])
    return model


@pytest.mark.parametrize(
    "tiny",
    [
        Tiny(),
        Tiny(tied=False, head_dim=32),
        Tiny(kv_heads=4),
        Tiny(matrices=Kind.F16),
        Tiny(matrices=Kind.Q8_0),
        Tiny(matrices=Kind.Q4_0),
        Tiny(matrices=Kind.Q4_1, embedding=Kind.Q8_0),
        Tiny(matrices=Kind.Q5_0),
        Tiny(matrices=Kind.BF16),
        Tiny(arch="qwen2"),
        Tiny(arch="qwen2", matrices=Kind.Q4_0, tied=False),
        Tiny(arch="qwen3", matrices=Kind.Q8_0),
    ],
    ids=lambda tiny: f"{tiny.arch}-{tiny.matrices.name}-{tiny.kv_heads}-{tiny.head_dim}",
)
def test_the_logits_are_those_of_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    tokenizer = byte_level("qwen2" if tiny.arch == "qwen2" else "smollm")
    found = weights(tiny, len(tokenizer["ggml.tokens"]))
    write_gguf(tmp_path / "tiny.gguf", tiny, found, tokenizer)
    folder = converted(tmp_path / "tiny.gguf")
    ours = logits(load_model(folder).model)
    theirs = logits(from_weights(folder, as_stored(found, tiny)))
    # Q5_0 has no equal in MLX and becomes float16, which rounds.
    tolerance = 0.02 if tiny.matrices == Kind.Q5_0 else 1e-4
    assert np.abs(ours - theirs).max() < tolerance
    assert np.abs(theirs).max() > 1


@pytest.mark.parametrize(
    ("kind", "bits"), [(Kind.Q4_0, 4), (Kind.Q4_1, 4), (Kind.Q8_0, 8), (Kind.Q5_0, None)]
)
def test_quantized_weights_stay_quantized_where_mlx_can(
    kind: Kind, bits: int | None, make_gguf: MakeGguf
) -> None:
    folder = converted(make_gguf(Tiny(matrices=kind)))
    config = json.loads((folder / "config.json").read_text())
    expected = None if bits is None else {"group_size": 32, "bits": bits}
    assert config.get("quantization") == expected


def test_a_layer_with_other_bits_is_named_in_the_config(make_gguf: MakeGguf) -> None:
    folder = converted(make_gguf(Tiny(matrices=Kind.Q4_1, embedding=Kind.Q8_0)))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }


def llama3_factors(factor: float, theta: float, dims: int) -> Array:
    """As convert_hf_to_gguf.py computes them."""
    low, high, original = 1.0, 4.0, 8192
    factors = []
    for frequency in 1.0 / (theta ** (np.arange(0, dims, 2) / dims)):
        wavelength = 2 * np.pi / frequency
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def test_llama3_rope_scaling_is_found_from_its_factors(tmp_path: Path) -> None:
    tiny, tokenizer = Tiny(heads=2, head_dim=32), byte_level()
    found = weights(tiny, len(tokenizer["ggml.tokens"]))
    factors = llama3_factors(32.0, 10000.0, tiny.head_dim)
    source = tmp_path / "tiny.gguf"
    write_gguf(source, tiny, found, tokenizer, **{"rope_freqs.weight": factors})
    config = json.loads((converted(source) / "config.json").read_text())
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_rope_factors_of_another_kind_are_refused(tmp_path: Path) -> None:
    tiny, tokenizer = Tiny(), byte_level()
    found = weights(tiny, len(tokenizer["ggml.tokens"]))
    source = tmp_path / "tiny.gguf"
    factors = np.linspace(1, 3, tiny.head_dim // 2, dtype=np.float32)
    write_gguf(source, tiny, found, tokenizer, **{"rope_freqs.weight": factors})
    with pytest.raises(ModelError, match=r"rope_freqs\.weight is not Llama 3's"):
        converted(source)


@pytest.mark.parametrize(
    ("extra", "scaling"),
    [
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 128,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        ),
        ({"llama.rope.scaling.type": "none"}, None),
    ],
)
def test_rope_scaling(
    extra: dict[str, Any], scaling: dict[str, Any] | None, make_gguf: MakeGguf
) -> None:
    folder = converted(make_gguf(Tiny(extra=extra)))
    assert json.loads((folder / "config.json").read_text()).get("rope_scaling") == scaling
    load_model(folder)


@pytest.mark.parametrize(
    ("tiny", "words"),
    [
        (Tiny(arch="gptneox"), "architecture 'gptneox'.*llama, qwen2, qwen3, smollm3"),
        (Tiny(extra={"llama.expert_count": 8}), "llama.expert_count = 8"),
        (Tiny(extra={"llama.logit_scale": 0.5}), "llama.logit_scale = 0.5"),
        (Tiny(extra={"llama.rope.dimension_count": 8}), "rotates 8 of 16 dimensions"),
        (Tiny(extra={"split.count": 3}), "one of 3 parts"),
        (
            Tiny(extra={"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}),
            "scales rope by 'longrope'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_said_in_mlx_is_refused(tiny: Tiny, words: str, make_gguf: MakeGguf) -> None:
    source = make_gguf(tiny)
    with pytest.raises(ModelError, match=words):
        converted(source)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    tiny, tokenizer = Tiny(), byte_level()
    found = weights(tiny, len(tokenizer["ggml.tokens"]))
    source = tmp_path / "tiny.gguf"
    write_gguf(
        source, tiny, found, tokenizer, **{"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    )
    with pytest.raises(ModelError, match=r"blk\.0\.attn_sinks\.weight"):
        converted(source)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "notes.gguf"
    source.write_text("not a model")
    with pytest.raises(ModelError, match=r"notes\.gguf is not a GGUF file"):
        converted(source)


def test_a_file_that_was_cut_short_is_refused(make_gguf: MakeGguf) -> None:
    source = make_gguf()
    whole = source.read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 1000):
        source.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="damaged"):
            convert_gguf(source, source.parent)
