"""The fused model's folder: weights and config by the child, the rest copied from the base.

Tokenizer files are copied as they are, byte for byte: what the student was
trained with is what it is asked with.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.exporting.job import MlxForm
from nanodistill.models.resolve import BESIDE_WEIGHTS
from nanodistill.runfolder import sync_folder

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module

    from nanodistill.exporting.fuse import Fused, Stored

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
        packing = _packing(stored, form)
        saved[path] = _as_saved(modules[path], stored, packing)
        if stored.quantization is not None:
            packings[path] = packing or False
    _put(fused.model, saved)
    if "quantization" in config:
        config["quantization"] = {**config["quantization"], **packings}
    save_model(folder, fused.model)
    save_config(config, folder / "config.json")


def _packing(stored: Stored, form: MlxForm) -> Mapping[str, Any] | None:
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


def put_in_place(made: Path, place: Path) -> None:
    """Make the finished folder `made` the one at `place`; a crash leaves the old or the new one
    (see `heal`)."""
    for file in made.iterdir():
        _sync(file)
    sync_folder(made)
    old = _old(place)
    if place.exists():
        place.rename(old)
    made.rename(place)
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def heal(place: Path) -> None:
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
