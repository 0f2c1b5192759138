"""What MLX would run on, in words.

A folder becomes a model in memory, in the numbers that its machine multiplies fast.

On a GPU a model is loaded as it is stored. On a CPU MLX multiplies float32
through BLAS and everything else, half precision and quantized, by loops of its
own: SmolLM2-135M as stored (4 bits, float16 scales) needs seconds for a token,
with float32 scales 0.15 s, as plain float32 0.04 s. So there a model is widened
to float32 when memory allows; if not, a quantized one stays packed and computes
in float32, and a half-precision one stays what it is. `LoadedModel.note` says
what was done and what it costs.

An adapter is applied by mlx_lm's own loader after widening, so it sits on what
the trainer trained it on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from nanodistill.errors import ModelError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.hardware import cores, free_memory
from nanodistill.models.blas import Blas, keep_within, load_fast_blas
from nanodistill.models.chat import Chat
from nanodistill.models.chat_templates import with_place_for_system
from nanodistill.models.resolve import ResolvedModel, resolve_model

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def mlx_device() -> str:
    """MLX's version and device, or why it can't be used and what to install."""
    load_fast_blas()
    try:
        import mlx.core as mx
    except ImportError as missing:
        return f"can't be imported ({missing}); on Linux: pip install 'nanodistill[cpu]'"
    return f"{metadata.version('mlx')}, on the {mx.default_device().type.name.upper()}"


WORKING_MEMORY = 1 << 30
"""Left free beside the weights: activations, caches, the interpreter."""

NO_KWARGS: Mapping[str, Any] = MappingProxyType({})

Dtype = Literal["as stored", "float32", "packed, computed in float32"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its tokenizer, ready to generate or to train.

    `config` is the folder's config.json as mlx_lm understood it; `numbers` in
    what form the weights are; `note` the same for a person.
    """

    model: Module
    tokenizer: TokenizerWrapper
    config: Mapping[str, Any]
    source: ResolvedModel
    adapter: Path | None
    numbers: Dtype
    note: str
    blas: Blas

    @property
    def path(self) -> Path:
        return self.source.path

    @cached_property
    def chat(self) -> Chat:
        """How messages become the model's tokens."""
        return Chat(self.tokenizer)


def load_model(
    name: str | Path,
    *,
    adapter: Path | None = None,
    as_stored: bool = False,
    tokenizer_kwargs: Mapping[str, Any] = NO_KWARGS,
    listener: Listener = ignore,
) -> LoadedModel:
    """Load the model called `name` (see resolve.py), with the adapter in folder `adapter`.

    `as_stored` leaves the weights as they are on any machine; `tokenizer_kwargs` go to the
    tokenizer's loader. Raises ModelError.
    """
    source = resolve_model(str(name), listener=listener)
    blas = load_fast_blas()
    if blas.missing is not None:
        listener(Notice(blas.describe(), level="warning"))
    keep_within(cores())
    model, config = _load(source)
    numbers, note = _choose_dtype(model, as_stored=as_stored)
    _widen(model, numbers)
    if adapter is not None:
        apply_adapter(model, adapter, source.name)
    _evaluate(model)
    listener(Notice(f"{source.name}: {note}"))
    tokenizer = load_tokenizer(source.path, config, tokenizer_kwargs)
    return LoadedModel(model, tokenizer, config, source, adapter, numbers, note, blas)


def _load(source: ResolvedModel) -> tuple[Module, dict[str, Any]]:
    from mlx_lm.utils import load_model as load_mlx

    try:
        model, config = load_mlx(source.path, lazy=True)
    except (ValueError, FileNotFoundError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{source.path} can't be loaded by mlx_lm: {error}") from error
    return model, config


def load_tokenizer(
    folder: Path, config: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> TokenizerWrapper:
    """The tokenizer in a model's folder whose config.json is `config`. Its chat template takes a
    system message (see templates.py). Raises ModelError."""
    from mlx_lm.utils import load_tokenizer as load
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer: TokenizerWrapper = load(
            folder, dict(kwargs), eos_token_ids=config.get("eos_token_id")
        )
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        given = f" with tokenizer_kwargs = {dict(kwargs)}" if kwargs else ""
        raise ModelError(f"The tokenizer in {folder} can't be loaded{given}: {error}") from error
    _make_place_for_system(tokenizer)
    return tokenizer


def _make_place_for_system(tokenizer: TokenizerWrapper) -> None:
    """Let the default chat template take a system message, if it takes none."""
    held = tokenizer.chat_template
    template = held.get("default") if isinstance(held, dict) else held
    if not isinstance(template, str):
        return
    placed = with_place_for_system(template, tokenizer.special_tokens_map)
    if placed != template:
        tokenizer.chat_template = {**held, "default": placed} if isinstance(held, dict) else placed


def _choose_dtype(model: Module, *, as_stored: bool) -> tuple[Dtype, str]:
    import mlx.core as mx

    stored = _stored(model)
    if as_stored or mx.default_device() != mx.cpu:
        return "as stored", f"loaded as stored, {stored}"
    return dtype_for_cpu(stored, _parameters(model), free_memory())


def dtype_for_cpu(stored: str, parameters: int, free: int) -> tuple[Dtype, str]:
    """The form for a CPU with `free` bytes of memory, and the note on it."""
    if stored == "float32":
        return "as stored", "loaded as stored, float32"
    need = parameters * 4 + WORKING_MEMORY
    figures = f"{need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    if need <= free:
        return "float32", f"{stored} widened to float32 for the CPU ({figures})"
    if stored.endswith("bits"):
        return (
            "packed, computed in float32",
            f"kept at {stored}: widened to float32 it would generate 3 to 4 times faster, "
            f"but that needs {figures}",
        )
    return (
        "as stored",
        f"kept in {stored}, which this CPU computes some 30 times slower than float32; "
        f"that would need {figures}",
    )


def _stored(model: Module) -> str:
    """The weights' form in a word: "4 bits", "bfloat16", "float32"."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    parameters = dict(tree_flatten(model.parameters()))
    if any(name.endswith(".scales") for name in parameters):
        bits = [int(module.bits) for module in model.modules() if "scales" in module]
        return f"{max(set(bits), key=bits.count)} bits"
    matrices = [array.dtype for array in parameters.values() if array.ndim > 1]
    return "float32" if all(d == mx.float32 for d in matrices) else str(matrices[0]).split(".")[-1]


def _parameters(model: Module) -> int:
    from mlx_lm.utils import get_total_parameters

    return int(get_total_parameters(model))


def _widen(model: Module, numbers: Dtype) -> None:
    """Widen the scales first, so that dequantizing rounds nothing."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    if numbers == "as stored":
        return
    model.set_dtype(mx.float32)
    if numbers == "float32":
        dequantize_model(model)
        model.set_dtype(mx.float32)


def apply_adapter(model: Module, adapter: Path, name: str) -> None:
    """Put the adapter in the folder `adapter` on `model`, which messages call `name`.

    Raises:
        ModelError: it is no adapter, or another model's.
    """
    from mlx_lm.utils import load_adapters

    try:
        load_adapters(model, str(adapter))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"The adapter in {adapter} doesn't fit {name}: {error}",
            next_step="Name the model that the adapter was trained on.",
        ) from error
    model.eval()


def _evaluate(model: Module) -> None:
    """Compute the weights a block at a time, so that packed and widened are both there for one
    block only."""
    import mlx.core as mx

    for layer in model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
