"""What MLX would run on, in words."""

from __future__ import annotations

from importlib import metadata

from nanodistill.models.blas import load_fast_blas


def mlx_device() -> str:
    """MLX's version and device, or why it can't be used and what to install."""
    load_fast_blas()
    try:
        import mlx.core as mx
    except ImportError as missing:
        return f"can't be imported ({missing}); on Linux: pip install 'nanodistill[cpu]'"
    return f"{metadata.version('mlx')}, on the {mx.default_device().type.name.upper()}"
