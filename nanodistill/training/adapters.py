"""What of the student is trained: adapters, or all weights of its last layers.

mlx-lm makes the layers (`linear_to_lora_layers`) and its loader reads what
`save_adapter` writes. `target_modules` may be bare (`q_proj`) or dotted
(`self_attn.q_proj`), as users of other libraries know them; mlx-lm knows paths
inside a block alone, so they are looked up in the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from nanodistill.config.nearest import nearest
from nanodistill.errors import ConfigError, Problem
from nanodistill.runfolder import write_atomic
from nanodistill.training.modelfacts import is_called
from nanodistill.training.options import TrainingOptions

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


def prepare(model: Module, options: TrainingOptions) -> dict[str, Any]:
    """Freeze `model` but for what `options` train; what an adapter's config says about it.

    The adapters' first values follow from the seed.

    Raises:
        ConfigError: `target_modules` names something that the model does not have.
    """
    layers = trained_layers(model, options)
    config = {
        "fine_tune_type": options.settings.fine_tune_type,
        "num_layers": layers,
        "lora_parameters": None,
    }
    mx.random.seed(options.seed)
    model.freeze()
    if options.settings.fine_tune_type == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
        return config
    parameters = dict(options.mlx_lm(1)["lora_parameters"])
    if options.settings.target_modules is not None:
        parameters["keys"] = module_paths(model, options.settings.target_modules)
    dora = options.settings.fine_tune_type == "dora"
    try:
        linear_to_lora_layers(model, layers, parameters, use_dora=dora)
    except ValueError as refused:
        problem = Problem("fine_tune_type" if dora else "target_modules", str(refused))
        raise ConfigError("The student can't be trained so:", [problem]) from refused
    return config | {"lora_parameters": parameters}


def trained_layers(model: Module, options: TrainingOptions) -> int:
    """How many of the last layers: no more than there are."""
    depth = len(model.layers)
    return depth if options.beyond.all_layers else min(options.settings.lora_layers, depth)


def module_paths(model: Module, names: Sequence[str]) -> list[str]:
    """Paths inside a block for modules named bare or dotted, from the block or from the model."""
    paths = sorted({path for layer in model.layers for path in _linear_paths(layer)})
    found = {name: [path for path in paths if is_called(path, name)] for name in names}
    known = sorted({path.rsplit(".", 1)[-1] for path in paths})
    problems = [
        Problem(
            "target_modules",
            f"the student has no {name}{nearest(name, known)}; it has {', '.join(known)}",
        )
        for name, matches in found.items()
        if not matches
    ]
    if problems:
        raise ConfigError("The student lacks modules that should get adapters:", problems)
    return sorted({path for matches in found.values() for path in matches})


def _linear_paths(layer: Module) -> list[str]:
    return [
        path
        for path, module in layer.named_modules()
        if "weight" in module and (isinstance(module, LINEAR) or "to_lora" in dir(module))
    ]


LINEAR = (Linear, QuantizedLinear)


def trainable(model: Module) -> dict[str, mx.array]:
    """The trained weights by path."""
    return dict(tree_flatten(model.trainable_parameters()))


def adapter_config(config: Mapping[str, Any], options: TrainingOptions, student: str) -> str:
    """adapter_config.json, as mlx_lm's loader takes it; the rest of it is for people.

    Args:
        student: what `mlx_lm.load` takes for the base; see `ResolvedModel.for_mlx_lm`.
    """
    whole = {"model": student, **config, "train_on": options.settings.train_on}
    return json.dumps(whole, indent=2) + "\n"


def write_adapter(folder: Path, weights: Path, config: str) -> None:
    """Make `folder` an adapter that `mlx_lm.load(model, adapter_path=folder)` takes.

    The config is the same through a run and comes first; a reader sees the old weights or the
    new ones.
    """
    write_atomic(folder / CONFIG, config.encode())
    write_atomic(folder / WEIGHTS, weights.read_bytes())
