"""Holds off idle sleep on a Mac while work is under way. Elsewhere it does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prevent_sleep() -> Iterator[None]:
    """Keep the machine from idling to sleep; also ends with the process, however that ends."""
    if sys.platform == "darwin":
        with subprocess.Popen(["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())]) as keeper:
            try:
                yield
            finally:
                keeper.terminate()
    else:
        yield
