"""The forms in which a fused model may be saved, from the smallest to one that loses nothing.

Where the base is quantized, the modules that were trained are packed again like
the base, or at eight bits, or left unpacked; the others keep their bits in
every form. The parity gate takes the first form that holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanodistill.exporting.job import MlxForm

ENOUGH_BITS = 8


def mlx_forms(config: Mapping[str, Any]) -> tuple[MlxForm, ...]:
    """The forms to try for a base with this config.json."""
    packing = config.get("quantization") or config.get("quantization_config")
    if not packing:
        return ("as base",)
    if packing.get("bits", 4) < ENOUGH_BITS:
        return ("as base", "8 bits", "unquantized")
    return ("as base", "unquantized")
