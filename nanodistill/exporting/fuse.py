"""Adapter and base become one model, and only where the adapter is anything changes.

The modules that an adapter touches are dequantized in float32, get it there,
and stay in float32; all others stay as they are stored, to the bit. A
quantized base is therefore never taken apart and packed again as a whole, which
costs every layer something; what form the touched modules are saved in is
the next step's to decide, and the parity gate's.

Works for LoRA, DoRA and full fine-tuning alike: mlx_lm's own loader applies the
adapter, after the touched modules are widened, as on a CPU it was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import dequantize_model, load_adapters, load_model

from nanodistill.errors import ModelError

ADAPTER_LEAVES = {"lora_a", "lora_b", "m"}


@dataclass(frozen=True)
class Stored:
    """How the base stores a module: its number type and, if packed, how it is quantized."""

    dtype: mx.Dtype
    quantization: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class Fused:
    """A model with its adapter in it. `changed` modules are plain float32, with how the base had
    them. `config` is the base's config.json as mlx_lm understood it, `dtype` its number type."""

    model: Module
    config: dict[str, Any]
    changed: Mapping[str, Stored]
    dtype: mx.Dtype


def fused(base: Path, adapter: Path) -> Fused:
    """The model in folder `base` with the adapter in folder `adapter` fused in.

    Raises:
        ModelError: the adapter is not this model's.
    """
    model, config = load_model(base, lazy=True)
    touched = touched_modules(adapter / "adapters.safetensors")
    modules = dict(model.named_modules())
    missing = [path for path in touched if path not in modules]
    if missing:
        raise ModelError(
            f"The adapter in {adapter} has weights for {missing[0]}, which {base} lacks"
        )
    usual = _usual_dtype(model)
    stored = {path: _stored(modules[path], usual) for path in touched}
    _replace(model, {path: plain(modules[path]) for path in touched})
    try:
        load_adapters(model, str(adapter))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"The adapter in {adapter} doesn't fit {base}: {error}") from error
    adapted = {p: m.fuse() for p, m in model.named_modules() if hasattr(m, "fuse")}
    _replace(model, adapted)
    return Fused(model, config, stored, usual)


def unpacked(fused: Fused) -> Fused:
    """The same model with every module plain, in the number type that the base has."""
    packed = {p: m for p, m in fused.model.named_modules() if "scales" in m}
    _replace(fused.model, {path: plain(module) for path, module in packed.items()})
    fused.model.set_dtype(fused.dtype)
    config = {k: v for k, v in fused.config.items() if not k.startswith("quantization")}
    return Fused(fused.model, config, {}, fused.dtype)


def touched_modules(weights: Path) -> list[str]:
    """The paths of the modules that an adapter file has weights for."""
    held: Mapping[str, Any] = mx.load(str(weights))  # type: ignore[assignment]
    return sorted({name.rpartition(".")[0] for name in held})


def _usual_dtype(model: Module) -> mx.Dtype:
    """The number type of the model's floating-point weights; scales of some packings are none."""
    arrays: dict[str, Any] = dict(tree_flatten(model.parameters()))
    types: Iterator[mx.Dtype] = (array.dtype for array in arrays.values())
    return next(dtype for dtype in types if mx.issubdtype(dtype, mx.floating))


def _stored(module: Module, usual: mx.Dtype) -> Stored:
    if "scales" not in module:
        return Stored(module.weight.dtype, None)
    packing = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
    floating = mx.issubdtype(module.scales.dtype, mx.floating)
    return Stored(module.scales.dtype if floating else usual, packing)


def plain(module: Module) -> Module:
    """`module` unpacked, in float32. Scales first, so that unpacking rounds nothing."""
    holder = Module()
    holder.held = module
    holder.set_dtype(mx.float32)
    dequantize_model(holder)
    holder.set_dtype(mx.float32)
    held: Module = holder.held
    return held


def _replace(model: Module, modules: Mapping[str, Module]) -> None:
    if modules:
        model.update_modules(tree_unflatten(list(modules.items())))
