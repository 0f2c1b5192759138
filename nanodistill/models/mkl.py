"""Intel's MKL as it serves MLX best.

32-bit sizes, an OpenMP that is there, the same bits from run to run, and
threads that sleep when they have nothing to do: by default Intel's OpenMP
keeps them spinning for 200 ms after each product, on cores that MLX's own
operations need. With two cores that doubled the time of a product.
"""

from __future__ import annotations

import ctypes
import os
from importlib import metadata
from pathlib import Path

# mkl_service.h
_LP64 = 0
_INTEL_THREADS, _SEQUENTIAL, _GNU_THREADS = 0, 1, 3
_CBWR_AUTO = 2


def prepare_mkl() -> None:
    """Before MKL is loaded: its OpenMP reads this once."""
    os.environ.setdefault("KMP_BLOCKTIME", "1")


def configure_mkl(library: ctypes.CDLL) -> None:
    """What is set before its first product, unless its own variables say otherwise."""
    library.MKL_Set_Interface_Layer(_LP64)
    if "MKL_THREADING_LAYER" not in os.environ:
        library.MKL_Set_Threading_Layer(_threading())
    if "MKL_CBWR" not in os.environ:
        library.MKL_CBWR_Set(_CBWR_AUTO)
    if "MKL_DYNAMIC" not in os.environ:
        library.MKL_Set_Dynamic(0)


def _threading() -> int:
    """MKL ends the process when its OpenMP is missing, so look before it does."""
    wheel = library_in_wheel("intel-openmp", "libiomp5.so")
    for library, layer in (
        (str(wheel) if wheel else "libiomp5.so", _INTEL_THREADS),
        ("libgomp.so.1", _GNU_THREADS),
    ):
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return layer
    return _SEQUENTIAL


def library_in_wheel(distribution: str, library: str) -> Path | None:
    """The file of an installed wheel whose name is `library`, with or without a version."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == library or file.name.startswith(library + "."):
            path = Path(str(file.locate())).resolve()
            if path.exists():
                return path
    return None
