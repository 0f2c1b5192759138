"""Prevents idle sleep on a Mac during long work. Does nothing elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prevent_sleep() -> Iterator[None]:
    """Keep a Mac awake; ends with the process, however that ends."""
    if sys.platform == "darwin":
        with subprocess.Popen(["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())]) as caffeinate:
            try:
                yield
            finally:
                caffeinate.terminate()
    else:
        yield
