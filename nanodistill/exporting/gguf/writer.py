"""The file: metadata first, then the tensors, of which one is in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType

from nanodistill.exporting.gguf.architectures import add_shape, architecture
from nanodistill.exporting.gguf.tensors import rope_factors, tensors
from nanodistill.exporting.gguf.tokenizer import add_tokenizer

if TYPE_CHECKING:
    from nanodistill.exporting.fuse import Fused
    from nanodistill.exporting.job import GgufType

FILE_TYPES = {"f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}


def write_gguf(
    fused: Fused, folder: Path, target: Path, kind: GgufType, settings: Mapping[str, Any]
) -> None:
    """Write `fused`, whose tokenizer lies in `folder`, to the file `target`.

    Args:
        settings: `name` of the model and `template` for chats.
    """
    with closing(GGUFWriter(target, architecture(fused.config).name)) as writer:
        writer.add_type("model")
        writer.add_name(settings["name"])
        writer.add_file_type(FILE_TYPES[kind])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_shape(writer, fused.config)
        add_tokenizer(writer, folder, fused.config, settings["template"])
        _write_tensors(writer, fused, kind)


def _write_tensors(writer: GGUFWriter, fused: Fused, kind: GgufType) -> None:
    factors, rest = rope_factors(fused.config), tensors(fused, kind)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in rest:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in rest:
        writer.write_tensor_data(tensor.take())
