"""A fast BLAS under MLX on Linux CPU.

MLX's Linux wheel comes with the reference BLAS, which multiplies float32 matrices 30 to
60 times slower than the machine could. MLX asks the dynamic linker for `cblas_sgemm`,
so a library that provides it and is loaded globally first takes the reference's place.
That works only before the first import of mlx: call `load_fast_blas` before anything
that imports it. Called too late, it returns the reference BLAS and says so.

Candidates, in order: the library that `NANODISTILL_BLAS` names ("none" for none); one
that is in the process already; the system's OpenBLAS; MKL from the `mkl` wheel. On
macOS MLX uses Accelerate and there is nothing to do.

Only float32 products go through BLAS. Another library, or another number of threads,
gives other last bits; callers that promise equal bits record `Blas.version` and
`threads()`.
"""

from __future__ import annotations

import ctypes
import glob
import os
import platform
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from nanodistill.errors import InputError

OVERRIDE = "NANODISTILL_BLAS"

Name = Literal["accelerate", "openblas", "mkl", "other", "reference"]

# Of MKL's mkl_service.h: 32-bit sizes, threading layers, and the same bits from run to run.
_LP64 = 0
_INTEL_THREADS, _SEQUENTIAL, _GNU_THREADS = 0, 1, 3
_CBWR_AUTO = 2
# Of cblas.h.
_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE = 101, 111, 112


@dataclass(frozen=True)
class Blas:
    """The BLAS that MLX uses in this process.

    Attributes:
        path: the library's file, if known.
        source: how it was found.
        missing: for the reference BLAS, why there is no other and what that costs.
    """

    name: Name
    path: Path | None
    version: str | None
    source: str
    missing: str | None = None

    @property
    def fast(self) -> bool:
        return self.name != "reference"

    def describe(self) -> str:
        if self.missing is not None:
            return f"reference (slow): {self.missing}"
        where = f" at {self.path}" if self.path else ""
        return f"{self.version or self.name}{where} ({self.source})"


_lock = threading.Lock()
_loaded: Blas | None = None
_library: ctypes.CDLL | None = None


def load_fast_blas() -> Blas:
    """Load the fastest BLAS available, once per process, before mlx is imported.

    Raises:
        InputError: `NANODISTILL_BLAS` names a library that can't be used.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            if sys.platform == "darwin":
                _loaded = Blas("accelerate", None, None, "MLX uses Apple's Accelerate")
            else:
                _loaded = _load_on_linux()
        return _loaded


def threads() -> int | None:
    """How many threads the BLAS uses; None if it doesn't say."""
    name = load_fast_blas().name
    if _library is None:
        return None
    if name == "openblas":
        return int(_library.openblas_get_num_threads())
    if name == "mkl":
        return int(_library.MKL_Get_Max_Threads())
    return None


def limit_threads(most: int) -> None:
    """Use at most `most` threads.

    A BLAS counts the machine's cores and not those its container may use, and threads that get
    no turn hold up the others.
    """
    used = threads()
    if used is not None and used > most:
        set_threads(most)


def set_threads(n: int) -> None:
    """Use `n` threads from now on, if the BLAS has a way to set them."""
    name = load_fast_blas().name
    if _library is None:
        return
    if name == "openblas":
        _library.openblas_set_num_threads(n)
    elif name == "mkl":
        _library.MKL_Set_Num_Threads(n)


def _load_on_linux() -> Blas:
    override = os.environ.get(OVERRIDE, "")
    if override.lower() == "none":
        return _reference(f"{OVERRIDE}=none turns others off, and float32 products")
    # A BLAS that LD_PRELOAD or another library has loaded globally.
    process = ctypes.CDLL(None)
    if _has(process, "cblas_sgemm"):
        return _use(process, "already in the process")
    if "mlx.core" in sys.modules:
        return _reference("mlx was imported before a fast BLAS was loaded: float32 products")
    if override:
        return _load_override(override)
    for library, source in _candidates():
        blas = _try(library, source)
        if blas is not None:
            return blas
    install = "apt-get install libopenblas0-pthread, or your system's OpenBLAS"
    if platform.machine() == "x86_64":
        install = f"pip install mkl, or {install}"
    return _reference(f"no fast BLAS is installed ({install}): float32 products")


def _reference(why: str) -> Blas:
    return Blas(
        "reference",
        None,
        None,
        "part of MLX's wheel",
        missing=f"{why} run 30 to 60 times slower than they could",
    )


def _load_override(path: str) -> Blas:
    try:
        ctypes.CDLL(path)
    except OSError as error:
        raise InputError(
            f"{OVERRIDE} names {path}, which can't be loaded: {error}",
            next_step="Set it to the path of a shared library with cblas_sgemm, or to none.",
        ) from error
    blas = _try(path, f"named by {OVERRIDE}")
    if blas is None:
        raise InputError(
            f"{OVERRIDE} names {path}, which has no correct cblas_sgemm with 32-bit sizes"
        )
    return blas


def _candidates() -> Iterator[tuple[str, str]]:
    """Libraries to try, and how each was found: OpenBLAS, then MKL's wheel.

    The threaded builds come first: Fedora's plain libopenblas has one thread.
    """
    names = ("libopenblasp.so.0", "libopenblas.so.0", "libopenblaso.so.0", "libopenblas.so")
    for name in names:
        yield name, "the system's"
    for folder in _folders():
        for name in names:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                yield path, f"found in {folder}"
    mkl = _library_in_wheel("mkl", "libmkl_rt.so")
    if mkl is not None:
        yield str(mkl), "from the mkl wheel"


def _folders() -> Iterator[str]:
    yield from sorted(glob.glob("/usr/lib/*-linux-gnu/openblas-*"))
    yield from sorted(glob.glob("/usr/lib/*-linux-gnu"))
    yield from ("/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib")
    yield "/opt/OpenBLAS/lib"
    yield from (os.path.join(sys.prefix, "lib"), os.path.join(sys.base_prefix, "lib"))


def _library_in_wheel(distribution: str, library: str) -> Path | None:
    """The file in an installed wheel that is called `library`, with or without a version."""
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


def _try(name: str, source: str) -> Blas | None:
    """Load a library if it multiplies correctly."""
    is_mkl = "libmkl_rt" in name
    if is_mkl:
        # By default Intel's OpenMP threads spin for 200 ms after each product, on cores that
        # MLX's own operations need: on two cores that doubled the time of a product. It reads
        # this once, when it is loaded.
        os.environ.setdefault("KMP_BLOCKTIME", "1")
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    if not _has(library, "cblas_sgemm"):
        return None
    if is_mkl:
        _configure_mkl(library)
    if not _multiplies(library):
        return None
    return _use(ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL), source)


def _configure_mkl(library: ctypes.CDLL) -> None:
    """Must run before MKL's first product. MKL's own variables take precedence."""
    library.MKL_Set_Interface_Layer(_LP64)
    if "MKL_THREADING_LAYER" not in os.environ:
        library.MKL_Set_Threading_Layer(_threading_layer())
    if "MKL_CBWR" not in os.environ:
        library.MKL_CBWR_Set(_CBWR_AUTO)
    if "MKL_DYNAMIC" not in os.environ:
        library.MKL_Set_Dynamic(0)


def _threading_layer() -> int:
    """MKL ends the process if its OpenMP is missing, so this looks first."""
    wheel = _library_in_wheel("intel-openmp", "libiomp5.so")
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


def _use(library: ctypes.CDLL, source: str) -> Blas:
    """Remember the library in use, and identify it."""
    global _library
    _library = library
    path = _path_of(library)
    if _has(library, "openblas_get_config"):
        library.openblas_get_config.restype = ctypes.c_char_p
        config = library.openblas_get_config().decode()
        return Blas("openblas", path, " ".join(config.split()[:2]), source)
    if _has(library, "MKL_Get_Version_String"):
        buffer = ctypes.create_string_buffer(256)
        library.MKL_Get_Version_String(buffer, len(buffer))
        version = buffer.value.decode().partition("Version ")[2].split("-")[0]
        return Blas("mkl", path, f"MKL {version}", source)
    return Blas("other", path, None, source)


def _has(library: ctypes.CDLL, symbol: str) -> bool:
    try:
        library[symbol]
    except AttributeError:
        return False
    return True


class _SymbolInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _path_of(library: ctypes.CDLL) -> Path | None:
    """The file that provides `cblas_sgemm`, by dladdr(3)."""
    symbol = ctypes.cast(library.cblas_sgemm, ctypes.c_void_p)
    info = _SymbolInfo()
    if not ctypes.CDLL(None).dladdr(symbol, ctypes.byref(info)) or info.file is None:
        return None
    return Path(os.fsdecode(info.file)).resolve()


def _multiplies(library: ctypes.CDLL) -> bool:
    """Whether [[1 2 3] [4 5 6]] times the transpose of [[7 8 9] [1 2 4]] is correct."""
    a = (ctypes.c_float * 6)(1, 2, 3, 4, 5, 6)
    b = (ctypes.c_float * 6)(7, 8, 9, 1, 2, 4)
    c = (ctypes.c_float * 4)()
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    layout = (_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE)
    library.cblas_sgemm(*layout, 2, 2, 3, one, a, 3, b, 3, zero, c, 2)
    return list(c) == [50, 17, 122, 38]
