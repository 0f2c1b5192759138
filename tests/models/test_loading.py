"""A loaded model computes what its folder says, in whatever numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.conftest import MakeGguf
from models.test_gguf import converted, logits
from models.tiny import Array, Kind, Tiny
from nanodistill.errors import ModelError
from nanodistill.events import Event, Notice
from nanodistill.models.loading import dtype_for_cpu, load_model

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

GB = 10**9


def on_cpu() -> bool:
    import mlx.core as mx

    return bool(mx.default_device() == mx.cpu)


def test_converted_weights_are_the_stored_ones(make_gguf: MakeGguf) -> None:
    folder = converted(make_gguf(Tiny(matrices=Kind.Q4_1, embedding=Kind.Q8_0)))
    stored = load_model(folder, as_stored=True)
    loaded = load_model(folder)
    assert (stored.dtype, stored.note) == ("as stored", "loaded as stored, 4 bits")
    if on_cpu():
        assert loaded.dtype == "float32"
        assert "4 bits" in loaded.note
    # The stored model computes in half precision.
    assert np.abs(logits(loaded.model) - logits(stored.model)).max() < 0.1


def test_the_listener_hears_what_was_done(make_gguf: MakeGguf) -> None:
    folder = converted(make_gguf())
    heard: list[Event] = []
    loaded = load_model(folder, on_event=heard.append)
    assert Notice(f"{folder}: {loaded.note}") in heard


@pytest.mark.parametrize(
    ("stored", "free", "dtype", "figures"),
    [
        ("4 bits", 8 * GB, "float32", ["5.1 GB", "8.0 GB"]),
        ("bfloat16", 8 * GB, "float32", ["5.1 GB", "8.0 GB"]),
        ("4 bits", 4 * GB, "packed, computed in float32", ["5.1 GB", "4.0 GB"]),
        ("bfloat16", 4 * GB, "as stored", ["30 times slower", "5.1 GB", "4.0 GB"]),
        ("float32", 4 * GB, "as stored", []),
    ],
)
def test_weights_become_float32_when_memory_allows(
    stored: str, free: int, dtype: str, figures: list[str]
) -> None:
    chosen, note = dtype_for_cpu(stored, GB, free)
    assert chosen == dtype
    assert all(figure in note for figure in [stored, *figures])


def make_adapter(folder: Path, model: Any, *, rank: int = 2, scale: float = 3.0) -> Path:
    """An adapter with random numbers on q and v of the last layer."""
    import mlx.core as mx

    folder.mkdir()
    layer = len(model.layers) - 1
    weights = {}
    for name in ("q_proj", "v_proj"):
        rows, columns = getattr(model.layers[layer].self_attn, name).weight.shape
        place = f"model.layers.{layer}.self_attn.{name}"
        weights[f"{place}.lora_a"] = mx.random.normal((columns, rank))
        weights[f"{place}.lora_b"] = mx.random.normal((rank, rows))
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    keys = ["self_attn.q_proj", "self_attn.v_proj"]
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def with_adapter_added(loaded: LoadedModel, adapter: Path) -> Array:
    """The logits of a model whose weights have the adapter's product added by hand."""
    import mlx.core as mx

    added = mx.load(str(adapter / "adapters.safetensors"))
    assert isinstance(added, dict)
    attention = loaded.model.layers[-1].self_attn
    for name in ("q_proj", "v_proj"):
        place = f"model.layers.{len(loaded.model.layers) - 1}.self_attn.{name}"
        product = (added[f"{place}.lora_a"] @ added[f"{place}.lora_b"]).T
        projection = getattr(attention, name)
        projection.weight = projection.weight + 3.0 * product
    return logits(loaded.model)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=lambda kind: kind.name)
def test_an_adapter_is_applied_to_the_converted_model(
    kind: Kind, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    if not on_cpu() and kind == Kind.Q8_0:
        pytest.skip("only a CPU converts")
    folder = converted(make_gguf(Tiny(matrices=kind)))
    base = load_model(folder)
    adapter = make_adapter(tmp_path / "adapter", base.model)
    adapted = load_model(folder, adapter=adapter)
    assert adapted.adapter == adapter
    expected = with_adapter_added(load_model(folder), adapter)
    assert np.abs(logits(adapted.model) - expected).max() < 1e-3
    assert np.abs(logits(adapted.model) - logits(base.model)).max() > 0.5


def test_an_adapter_of_another_model_is_refused(make_gguf: MakeGguf, tmp_path: Path) -> None:
    small = load_model(converted(make_gguf()))
    adapter = make_adapter(tmp_path / "adapter", small.model)
    (tmp_path / "tiny.gguf").unlink()
    (tmp_path / "tiny").rename(tmp_path / "small")
    other = converted(make_gguf(Tiny(hidden=96, heads=6)))
    with pytest.raises(ModelError, match=r"adapter in .*adapter doesn't fit"):
        load_model(other, adapter=adapter)
    with pytest.raises(ModelError, match="doesn't fit"):
        load_model(other, adapter=tmp_path / "nowhere")


def test_a_kind_of_model_that_mlx_lm_lacks_is_told(make_gguf: MakeGguf) -> None:
    folder = converted(make_gguf())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "brand_new"}))
    with pytest.raises(ModelError, match="Model type brand_new not supported"):
        load_model(folder)


def test_weights_that_are_cut_short_are_told(make_gguf: MakeGguf) -> None:
    folder = converted(make_gguf())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ModelError, match="can't be loaded by mlx_lm"):
        load_model(folder)


PROMPT = [{"role": "user", "content": "What is the capital of France?"}]


def test_the_embedded_model_answers(embedded_model: LoadedModel) -> None:
    """Its first answer to this, as llama.cpp gives it from the same weights in float32."""
    from nanodistill.models.generation import generate_batch
    from nanodistill.models.sampling import Sampling

    (answer,) = generate_batch(embedded_model, [PROMPT], Sampling(20), max_batch=1)
    assert answer.text == "The capital of France is Paris."
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", 8)
    assert embedded_model.source.licence == "Apache-2.0"
