"""Fusing is exact for every kind of training, on plain and on packed bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.tiny import make_model
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from export.conftest import quantized
from nanodistill.errors import ModelError
from nanodistill.models.loading import load_model

PROMPT = [[5, 9, 40, 41, 42, 7, 100]]


def make_trained(folder: Path, model: Path, kind: str) -> Path:
    """What a training of `kind` leaves: weights of the last block, changed at random."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    loaded: Any = load_model(model).model
    lora = {"rank": 2, "scale": 3.0, "dropout": 0.0}
    loaded.freeze()
    if kind == "full":
        loaded.layers[-1].unfreeze()
    else:
        linear_to_lora_layers(loaded, 1, lora, use_dora=kind == "dora")
    mx.random.seed(3)
    flat: dict[str, Any] = dict(tree_flatten(loaded.trainable_parameters()))
    weights = {name: w + 0.2 * mx.random.normal(w.shape) for name, w in flat.items()}
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": kind, "num_layers": 1, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Path:
    return quantized(plain, tmp_path_factory.mktemp("packed") / "model")


@pytest.mark.parametrize("base", ["plain", "packed"])
@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_fused_is_adapted(
    kind: str, base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from nanodistill.exporting.mlx_folder import fused, write_weights

    model: Path = request.getfixturevalue(base)
    trained = make_trained(tmp_path / "adapters", model, kind)
    wanted = logits(model, trained)
    result = fused(model, trained)
    assert all(path.startswith("model.layers.1.") for path in result.changed)
    write_weights(result, tmp_path / "fused", "unquantized")
    (tmp_path / "fused" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    spread = float(np.ptp(wanted))
    rounding = 1e-5 if base == "plain" else 2e-3  # the packed base stores float16
    assert np.abs(logits(tmp_path / "fused") - wanted).max() < rounding * spread
    assert np.abs(logits(model) - wanted).max() > 0.05 * spread


def test_packed_again_it_is_laid_out_as_the_base(packed: Path, tmp_path: Path) -> None:
    from nanodistill.exporting.mlx_folder import fused, write_weights

    trained = make_trained(tmp_path / "adapters", packed, "lora")
    write_weights(fused(packed, trained), tmp_path / "fused", "as base")
    before, after = (
        load((folder / "model.safetensors").read_bytes()) for folder in (packed, tmp_path / "fused")
    )
    assert {name: (w.dtype, w.shape) for name, w in before.items()} == {
        name: (w.dtype, w.shape) for name, w in after.items()
    }
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert all(name.startswith("model.layers.1.") for name in changed)
    assert "model.layers.1.self_attn.q_proj.weight" in changed


def test_unpacked_for_other_programs(packed: Path, tmp_path: Path) -> None:
    from nanodistill.exporting.mlx_folder import dequantized, fused, write_weights

    trained = make_trained(tmp_path / "adapters", packed, "lora")
    wanted = logits(packed, trained)
    write_weights(dequantized(fused(packed, trained)), tmp_path / "plain", "unquantized")
    (tmp_path / "plain" / "tokenizer.json").write_bytes((packed / "tokenizer.json").read_bytes())
    held = load((tmp_path / "plain" / "model.safetensors").read_bytes())
    assert {w.dtype for w in held.values()} == {np.dtype(np.float16)}
    assert not any(name.endswith("scales") for name in held)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert not any(key.startswith("quantization") for key in config)
    assert np.abs(logits(tmp_path / "plain") - wanted).max() < 2e-3 * float(np.ptp(wanted))


def logits(model: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    """Logits of the model as it is widened on a CPU, with an adapter as it is trained there."""
    import mlx.core as mx
    from mlx_lm.utils import load_adapters

    loaded: Any = load_model(model).model
    if adapter is not None:
        loaded = load_adapters(loaded, str(adapter))
    return np.array(loaded(mx.array(PROMPT)))


def test_another_models_adapter(plain: Path, tmp_path: Path) -> None:
    from nanodistill.exporting.mlx_folder import fused

    trained = make_trained(tmp_path / "adapters", plain, "lora")
    file = trained / "adapters.safetensors"
    held = load(file.read_bytes())
    save_file({name.replace("layers.1", "layers.9"): w for name, w in held.items()}, file)
    with pytest.raises(ModelError, match=r"weights for model\.layers\.9\."):
        fused(plain, trained)
