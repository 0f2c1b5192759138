"""Adapter and base as one model in an MLX folder.

Only modules that the adapter touches change. They are dequantized in float32 and receive the
adapter there; all others stay as they are stored, to the bit. A quantized base is therefore never
unpacked and repacked as a whole, which costs every layer some precision. mlx_lm's own loader
applies the adapter after the touched modules are widened, so LoRA, DoRA and full fine-tuning work
alike.

Where the base is quantized there are several forms to save, from the smallest to one that loses
nothing: the trained modules are packed again like the base, or at eight bits, or left unpacked. The
parity gate takes the first form that holds.

Tokenizer files are copied byte for byte: the student is asked with what it was trained with.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import dequantize_model, load_model

from nanodistill.errors import ModelError
from nanodistill.exporting.worker import MlxForm
from nanodistill.models.loading import apply_adapter
from nanodistill.models.resolve import BESIDE_WEIGHTS
from nanodistill.run_dir import sync_folder

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module


ENOUGH_BITS = 8


def mlx_forms(config: Mapping[str, Any]) -> tuple[MlxForm, ...]:
    """The forms to try for a base with this config.json."""
    packing = config.get("quantization") or config.get("quantization_config")
    if not packing:
        return ("as base",)
    if packing.get("bits", 4) < ENOUGH_BITS:
        return ("as base", "8 bits", "unquantized")
    return ("as base", "unquantized")


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
    _replace(model, {path: to_plain_weights(modules[path]) for path in touched})
    apply_adapter(model, adapter, str(base))
    adapted = {p: m.fuse() for p, m in model.named_modules() if hasattr(m, "fuse")}
    _replace(model, adapted)
    return Fused(model, config, stored, usual)


def dequantized(fused: Fused) -> Fused:
    """The same model with every module plain, in the number type that the base has."""
    packed = {p: m for p, m in fused.model.named_modules() if "scales" in m}
    _replace(fused.model, {path: to_plain_weights(module) for path, module in packed.items()})
    fused.model.set_dtype(fused.dtype)
    config = {k: v for k, v in fused.config.items() if not k.startswith("quantization")}
    return Fused(fused.model, config, {}, fused.dtype)


def touched_modules(weights: Path) -> list[str]:
    """The paths of the modules that an adapter file has weights for."""
    try:
        held: Mapping[str, Any] = mx.load(str(weights))  # type: ignore[assignment]
    except (RuntimeError, ValueError) as broken:
        raise ModelError(
            f"{weights} can't be read: {broken}.",
            next_step="Train again: nanodistill train RUN.toml",
        ) from broken
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


def to_plain_weights(module: Module) -> Module:
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


LEGAL = ("LICENSE*", "NOTICE*")
EIGHT_BITS = {"group_size": 32, "bits": 8, "mode": "affine"}


def write_weights(fused: Fused, folder: Path, form: MlxForm) -> None:
    """Write model*.safetensors and config.json, the changed modules in `form`."""
    from mlx_lm.utils import save_config, save_model

    modules = dict(fused.model.named_modules())
    config = dict(fused.config)
    packings: dict[str, Mapping[str, Any] | bool] = {}
    saved = {}
    for path, stored in fused.changed.items():
        packing = _quantization(stored, form)
        saved[path] = _as_saved(modules[path], stored, packing)
        if stored.quantization is not None:
            packings[path] = packing or False
    _put(fused.model, saved)
    if "quantization" in config:
        config["quantization"] = {**config["quantization"], **packings}
    save_model(folder, fused.model)
    save_config(config, folder / "config.json")


def _quantization(stored: Stored, form: MlxForm) -> Mapping[str, Any] | None:
    if stored.quantization is None or form == "unquantized":
        return None
    return stored.quantization if form == "as base" else EIGHT_BITS


def _as_saved(module: Module, stored: Stored, packing: Mapping[str, Any] | None) -> Module:
    """`module` packed from float32, then its numbers in the type that the base has."""
    packed = module if packing is None else module.to_quantized(**packing)
    packed.set_dtype(stored.dtype)
    return packed


def _put(model: Module, modules: Mapping[str, Module]) -> None:
    from mlx.utils import tree_unflatten

    if modules:
        model.update_modules(tree_unflatten(list(modules.items())))


def copy_beside(base: Path, folder: Path) -> None:
    """Tokenizer, template and licence of the base, as they are."""
    for pattern in (*BESIDE_WEIGHTS, *LEGAL):
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def atomic_replace(made: Path, place: Path) -> None:
    """Make the finished folder `made` the one at `place`; a crash leaves the old or the new one
    (see `repair`)."""
    for file in made.iterdir():
        _sync(file)
    sync_folder(made)
    old = _old(place)
    if place.exists():
        place.rename(old)
    made.rename(place)
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def repair(place: Path) -> None:
    """Put back a folder whose successor never came, or clear away one that has been replaced."""
    old = _old(place)
    if old.exists() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _sync(file: Path) -> None:
    import os

    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
