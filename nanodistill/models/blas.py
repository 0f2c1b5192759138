"""Intel's MKL as it serves MLX best.

32-bit sizes, an OpenMP that is there, the same bits from run to run, and
threads that sleep when they have nothing to do: by default Intel's OpenMP
keeps them spinning for 200 ms after each product, on cores that MLX's own
operations need. With two cores that doubled the time of a product.

A fast BLAS under MLX on Linux CPU.

MLX's Linux wheel brings the reference BLAS, which multiplies float32 matrices
30 to 60 times slower than the machine could. MLX asks the dynamic linker for
`cblas_sgemm`, so a library that offers it and is loaded first, for all to see,
takes the reference's place. That works only before the first import of mlx:
`load_fast_blas` belongs at the top of whatever is about to import it, and says
so when it comes too late.

Searched, in this order: the library that `NANODISTILL_BLAS` names (`none` for
none at all); one that is in the process already; the system's OpenBLAS; MKL
from the `mkl` wheel. On macOS MLX uses Accelerate and there is nothing to do.

Only float32 products go through BLAS. Another library, or another number of
threads, gives other last bits: who promises equal bits records `Blas.version`
and `threads()`.
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


OVERRIDE = "NANODISTILL_BLAS"

Name = Literal["accelerate", "openblas", "mkl", "other", "reference"]


@dataclass(frozen=True)
class Blas:
    """The BLAS that MLX uses in this process.

    `found` says how it was found; `missing` what is missing and what that
    costs, for the reference BLAS alone.
    """

    name: Name
    path: Path | None
    version: str | None
    found: str
    missing: str | None = None

    @property
    def fast(self) -> bool:
        return self.name != "reference"

    def describe(self) -> str:
        if self.missing is not None:
            return f"reference (slow): {self.missing}"
        where = f" at {self.path}" if self.path else ""
        return f"{self.version or self.name}{where} ({self.found})"


@dataclass(frozen=True)
class Candidate:
    """A library worth trying: a path, or a name that the dynamic linker may know."""

    library: str
    found: str


_lock = threading.Lock()
_loaded: Blas | None = None
_library: ctypes.CDLL | None = None


def load_fast_blas() -> Blas:
    """Load the fastest BLAS at hand, once per process, before mlx is imported."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _accelerate() if sys.platform == "darwin" else _load_on_linux()
        return _loaded


def threads() -> int | None:
    """How many threads the BLAS uses, or None where it doesn't say."""
    name = load_fast_blas().name
    if _library is None:
        return None
    if name == "openblas":
        return int(_library.openblas_get_num_threads())
    if name == "mkl":
        return int(_library.MKL_Get_Max_Threads())
    return None


def keep_within(most: int) -> None:
    """No more threads than `most`: a BLAS counts the machine's cores, not those that its
    container may use, and threads that get no turn hold up the others."""
    used = threads()
    if used is not None and used > most:
        set_threads(most)


def set_threads(n: int) -> None:
    """Use `n` threads from now on, where the BLAS lets itself be told."""
    name = load_fast_blas().name
    if _library is None:
        return
    if name == "openblas":
        _library.openblas_set_num_threads(n)
    elif name == "mkl":
        _library.MKL_Set_Num_Threads(n)


def _accelerate() -> Blas:
    return Blas("accelerate", None, None, "MLX uses Apple's Accelerate")


def _load_on_linux() -> Blas:
    wish = os.environ.get(OVERRIDE, "")
    if wish.lower() == "none":
        return _reference(f"{OVERRIDE}=none asks for it, and float32 products")
    in_process = _in_process()
    if in_process is not None:
        return in_process
    if "mlx.core" in sys.modules:
        return _reference("mlx was imported before a fast BLAS was loaded: float32 products")
    if wish:
        return _load_wish(wish)
    for candidate in _candidates():
        blas = _try(candidate)
        if blas is not None:
            return blas
    return _reference(f"no fast BLAS is installed ({_how_to_install()}): float32 products")


def _reference(why: str) -> Blas:
    return Blas(
        "reference",
        None,
        None,
        "part of MLX's wheel",
        missing=f"{why} run 30 to 60 times slower than they could",
    )


def _how_to_install() -> str:
    system = "apt-get install libopenblas0-pthread, or your system's OpenBLAS"
    return f"pip install mkl, or {system}" if platform.machine() == "x86_64" else system


def _load_wish(path: str) -> Blas:
    try:
        ctypes.CDLL(path)
    except OSError as error:
        raise InputError(
            f"{OVERRIDE} names {path}, which can't be loaded: {error}",
            next_step=f"Give the path of a shared library with cblas_sgemm, or {OVERRIDE}=none.",
        ) from error
    blas = _try(Candidate(path, f"named by {OVERRIDE}"))
    if blas is None:
        raise InputError(
            f"{OVERRIDE} names {path}, which has no cblas_sgemm with 32-bit sizes "
            "that multiplies rightly"
        )
    return blas


def _candidates() -> Iterator[Candidate]:
    """OpenBLAS by the linker's names and in the usual folders, then MKL's wheel.

    The threaded builds come first: Fedora's plain libopenblas has one thread.
    """
    names = ("libopenblasp.so.0", "libopenblas.so.0", "libopenblaso.so.0", "libopenblas.so")
    for name in names:
        yield Candidate(name, "the system's")
    for folder in _folders():
        for name in names:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                yield Candidate(path, f"found in {folder}")
    mkl = library_in_wheel("mkl", "libmkl_rt.so")
    if mkl is not None:
        yield Candidate(str(mkl), "from the mkl wheel")


def _folders() -> Iterator[str]:
    yield from sorted(glob.glob("/usr/lib/*-linux-gnu/openblas-*"))
    yield from sorted(glob.glob("/usr/lib/*-linux-gnu"))
    yield from ("/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib")
    yield "/opt/OpenBLAS/lib"
    yield from (os.path.join(sys.prefix, "lib"), os.path.join(sys.base_prefix, "lib"))


def _try(candidate: Candidate) -> Blas | None:
    global _library
    is_mkl = "libmkl_rt" in candidate.library
    if is_mkl:
        prepare_mkl()
    try:
        library = ctypes.CDLL(candidate.library)
    except OSError:
        return None
    if not _offers_cblas(library):
        return None
    if is_mkl:
        configure_mkl(library)
    if not _multiplies(library):
        return None
    _library = ctypes.CDLL(candidate.library, mode=ctypes.RTLD_GLOBAL)
    return _describe(_library, candidate.found)


def _in_process() -> Blas | None:
    """A BLAS that LD_PRELOAD or somebody else has loaded for all to see."""
    global _library
    everything = ctypes.CDLL(None)
    if not _offers_cblas(everything):
        return None
    _library = everything
    return _describe(everything, "in the process already")


def _describe(library: ctypes.CDLL, found: str) -> Blas:
    path = _path_of(library)
    if _has(library, "openblas_get_config"):
        library.openblas_get_config.restype = ctypes.c_char_p
        config = library.openblas_get_config().decode()
        return Blas("openblas", path, " ".join(config.split()[:2]), found)
    if _has(library, "MKL_Get_Version_String"):
        buffer = ctypes.create_string_buffer(256)
        library.MKL_Get_Version_String(buffer, len(buffer))
        version = buffer.value.decode().partition("Version ")[2].split("-")[0]
        return Blas("mkl", path, f"MKL {version}", found)
    return Blas("other", path, None, found)


def _has(library: ctypes.CDLL, symbol: str) -> bool:
    try:
        library[symbol]
    except AttributeError:
        return False
    return True


def _offers_cblas(library: ctypes.CDLL) -> bool:
    return _has(library, "cblas_sgemm")


class _SymbolInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _path_of(library: ctypes.CDLL) -> Path | None:
    """The file that really provides `cblas_sgemm`, by dladdr(3)."""
    symbol = ctypes.cast(library.cblas_sgemm, ctypes.c_void_p)
    info = _SymbolInfo()
    if not ctypes.CDLL(None).dladdr(symbol, ctypes.byref(info)) or info.file is None:
        return None
    return Path(os.fsdecode(info.file)).resolve()


_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE = 101, 111, 112


def _multiplies(library: ctypes.CDLL) -> bool:
    """Whether [[1 2 3] [4 5 6]] times the transpose of [[7 8 9] [1 2 4]] comes out right."""
    a = (ctypes.c_float * 6)(1, 2, 3, 4, 5, 6)
    b = (ctypes.c_float * 6)(7, 8, 9, 1, 2, 4)
    c = (ctypes.c_float * 4)()
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    layout = (_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE)
    library.cblas_sgemm(*layout, 2, 2, 3, one, a, 3, b, 3, zero, c, 2)
    return list(c) == [50, 17, 122, 38]
