"""A folder becomes a model in memory, in the precision that the machine computes fast.

On a GPU a model is loaded as it is stored. On a CPU MLX multiplies float32 through BLAS,
but half precision and quantized weights in its own loops: SmolLM2-135M as stored (4
bits, float16 scales) needs seconds per token, with float32 scales 0.15 s, as plain
float32 0.04 s. So on a CPU a model is converted to float32 if memory allows. If not, a
quantized one stays quantized and computes in float32, and a half-precision one stays as
it is. `LoadedModel.note` says what was done and what it costs.

An adapter is applied by mlx_lm's own loader after that, on the weights that the trainer
trained it on.
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
from nanodistill.models.blas import Blas, limit_threads, load_fast_blas
from nanodistill.models.chat_templates import Chat, with_place_for_system
from nanodistill.models.resolve import ResolvedModel, resolve_model

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def mlx_device() -> str:
    """MLX's version and device for display, or why it can't be imported."""
    load_fast_blas()
    try:
        import mlx.core as mx
    except ImportError as missing:
        return f"can't be imported ({missing}); on Linux: pip install 'nanodistill[cpu]'"
    return f"{metadata.version('mlx')}, on the {mx.default_device().type.name.upper()}"


# Bytes left free beside the weights, for activations, caches and the interpreter. A choice: less
# risks swapping, more keeps models that would fit from being converted.
WORKING_MEMORY = 1 << 30

NO_KWARGS: Mapping[str, Any] = MappingProxyType({})

Dtype = Literal["as stored", "float32", "packed, computed in float32"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its tokenizer, ready to generate or to train.

    Attributes:
        config: the folder's config.json as mlx_lm reads it.
        adapter: the folder of the applied adapter, if any.
        dtype: the precision of the weights.
        note: the same in a sentence for the user.
    """

    model: Module
    tokenizer: TokenizerWrapper
    config: Mapping[str, Any]
    source: ResolvedModel
    adapter: Path | None
    dtype: Dtype
    note: str
    blas: Blas

    @property
    def path(self) -> Path:
        return self.source.path

    @cached_property
    def chat(self) -> Chat:
        """Tokenizes conversations for this model."""
        return Chat(self.tokenizer)


def load_model(
    name: str | Path,
    *,
    adapter: Path | None = None,
    as_stored: bool = False,
    tokenizer_kwargs: Mapping[str, Any] = NO_KWARGS,
    on_event: Listener = ignore,
) -> LoadedModel:
    """Load a model, fetching and converting it first if necessary.

    Args:
        name: see resolve.py.
        adapter: the folder of an adapter to apply.
        as_stored: leave the weights as they are on any machine.
        tokenizer_kwargs: passed to the tokenizer's loader.

    Raises:
        ModelError: a part of it can't be found or loaded.

    Example:
        >>> load_model("smollm2-135m").chat.tokens([{"role": "user", "content": "hi"}])
    """
    source = resolve_model(str(name), on_event=on_event)
    blas = load_fast_blas()
    if blas.missing is not None:
        on_event(Notice(blas.describe(), level="warning"))
    limit_threads(cores())
    from mlx_lm.utils import load_model as load_mlx

    try:
        model, config = load_mlx(source.path, lazy=True)
    except (ValueError, FileNotFoundError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{source.path} can't be loaded by mlx_lm: {error}") from error
    dtype, note = _choose_dtype(model, as_stored=as_stored)
    _convert(model, dtype)
    if adapter is not None:
        apply_adapter(model, adapter, source.name)
    _evaluate(model)
    on_event(Notice(f"{source.name}: {note}"))
    tokenizer = load_tokenizer(source.path, config, tokenizer_kwargs)
    return LoadedModel(model, tokenizer, config, source, adapter, dtype, note, blas)


def load_tokenizer(
    folder: Path, config: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> TokenizerWrapper:
    """Load the tokenizer in a model's folder; its chat template accepts a system message.

    Args:
        config: the folder's config.json.
        kwargs: passed to the tokenizer's class.

    Raises:
        ModelError: it can't be loaded.
    """
    from mlx_lm.utils import load_tokenizer as load
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer: TokenizerWrapper = load(
            folder, dict(kwargs), eos_token_ids=config.get("eos_token_id")
        )
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        extra = f" with tokenizer_kwargs = {dict(kwargs)}" if kwargs else ""
        raise ModelError(f"The tokenizer in {folder} can't be loaded{extra}: {error}") from error
    templates = tokenizer.chat_template  # one, or several by name
    template = templates.get("default") if isinstance(templates, dict) else templates
    if isinstance(template, str):
        changed = with_place_for_system(template, tokenizer.special_tokens_map)
        if changed != template:
            several = isinstance(templates, dict)
            tokenizer.chat_template = {**templates, "default": changed} if several else changed
    return tokenizer


def _choose_dtype(model: Module, *, as_stored: bool) -> tuple[Dtype, str]:
    import mlx.core as mx
    from mlx_lm.utils import get_total_parameters

    stored = _stored_dtype(model)
    if as_stored or mx.default_device() != mx.cpu:
        return "as stored", f"loaded as stored, {stored}"
    return dtype_for_cpu(stored, int(get_total_parameters(model)), free_memory())


def dtype_for_cpu(stored: str, parameters: int, free: int) -> tuple[Dtype, str]:
    """The precision to use on a CPU with `free` bytes of memory, and the note on it."""
    if stored == "float32":
        return "as stored", "loaded as stored, float32"
    need = parameters * 4 + WORKING_MEMORY
    figures = f"{need / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    if need <= free:
        return "float32", f"{stored} converted to float32 for the CPU ({figures})"
    if stored.endswith("bits"):
        return (
            "packed, computed in float32",
            f"kept at {stored}; float32 would generate 3 to 4 times faster, but needs {figures}",
        )
    return (
        "as stored",
        f"kept in {stored}, which is about 30 times slower than float32 on this CPU; float32 "
        f"needs {figures}",
    )


def _stored_dtype(model: Module) -> str:
    """The precision of the stored weights: "4 bits", "bfloat16", "float32"."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    parameters = dict(tree_flatten(model.parameters()))
    if any(name.endswith(".scales") for name in parameters):
        bits = [int(module.bits) for module in model.modules() if "scales" in module]
        return f"{max(set(bits), key=bits.count)} bits"
    matrices = [array.dtype for array in parameters.values() if array.ndim > 1]
    return "float32" if all(d == mx.float32 for d in matrices) else str(matrices[0]).split(".")[-1]


def _convert(model: Module, dtype: Dtype) -> None:
    """Convert the scales first, so that dequantizing does not round."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    if dtype == "as stored":
        return
    model.set_dtype(mx.float32)
    if dtype == "float32":
        dequantize_model(model)
        model.set_dtype(mx.float32)


def apply_adapter(model: Module, adapter: Path, name: str) -> None:
    """Apply the adapter in a folder to a model, which messages call `name`.

    Raises:
        ModelError: the folder holds no adapter, or another model's.
    """
    from mlx_lm.utils import load_adapters

    try:
        load_adapters(model, str(adapter))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"The adapter in {adapter} doesn't fit {name}: {error}",
            next_step="Use the model that the adapter was trained on.",
        ) from error
    model.eval()


def _evaluate(model: Module) -> None:
    """Compute the weights block by block, so that only one block is in memory twice."""
    import mlx.core as mx

    for layer in model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
