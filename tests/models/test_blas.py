"""Loading a BLAS works once per process, before mlx: so each case runs in one of its own."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has Accelerate")

MULTIPLY = """
import mlx.core as mx
a = mx.arange(12, dtype=mx.float32).reshape(3, 4)
assert (a @ a.T).tolist() == [[14, 38, 62], [38, 126, 214], [62, 214, 366]]
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from nanodistill.models.blas import *\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def a_fast_one_is_installed() -> bool:
    if ctypes.util.find_library("openblas"):
        return True
    return any(d.name == "mkl" for d in metadata.distributions())


needs_fast = pytest.mark.skipif(not a_fast_one_is_installed(), reason="no fast BLAS installed")


@needs_fast
def test_what_is_installed_is_found_and_multiplies_rightly() -> None:
    out = run(f"blas = load_fast_blas(){MULTIPLY}print(blas.name, blas.fast, blas.missing)")
    assert out in ("openblas True None", "mkl True None")


@needs_fast
def test_mlx_really_uses_it() -> None:
    """The reference BLAS needs 400 ms for this product on a slow core, a fast one 20."""
    out = run("""
import time
print(load_fast_blas().name)
import mlx.core as mx
a = mx.ones((1024, 1024)); mx.eval(a @ a)
def once():
    start = time.perf_counter(); mx.eval(a @ a); return time.perf_counter() - start
print(min(once() for _ in range(10)) < 0.2)
""")
    assert out.split()[1] == "True"


@needs_fast
def test_threads_can_be_set() -> None:
    assert run("load_fast_blas(); set_threads(1); print(threads())") == "1"


@needs_fast
def test_the_description_names_version_and_path() -> None:
    out = run("blas = load_fast_blas(); print(blas.describe()); print(blas.path)")
    description, path = out.splitlines()
    assert path in description
    assert Path(path).exists()


def test_it_can_be_forbidden() -> None:
    out = run(
        f"blas = load_fast_blas(){MULTIPLY}print(blas.name, blas.fast); print(blas.missing)",
        NANODISTILL_BLAS="none",
    )
    assert out.splitlines()[0] == "reference False"
    assert "30 to 60 times slower" in out


def test_after_mlx_it_says_that_it_is_too_late() -> None:
    out = run("import mlx.core; blas = load_fast_blas(); print(blas.name); print(blas.missing)")
    assert out.splitlines()[0] == "reference"
    assert "mlx was imported before" in out


@pytest.mark.parametrize("library", ["/nowhere/libopenblas.so", "libm.so.6"])
def test_a_wrong_wish_is_an_error_that_names_it(library: str) -> None:
    out = run(
        "from nanodistill.errors import InputError\n"
        "try: load_fast_blas()\nexcept InputError as error: print(error)",
        NANODISTILL_BLAS=library,
    )
    assert out.startswith(f"NANODISTILL_BLAS names {library}")


def test_asking_twice_gives_the_same_answer() -> None:
    assert run("print(load_fast_blas() is load_fast_blas())") == "True"


def test_no_more_threads_than_a_container_has_cores() -> None:
    code = "load_fast_blas(); set_threads(2); limit_threads(3); print(threads()); limit_threads(1)"
    assert run(f"{code}; print(threads())").split() == ["2", "1"]
