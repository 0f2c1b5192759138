"""Spares a long piece of work the cyclic collector's walks over what is there before it.

A process that has imported LiteLLM holds some million objects, none of which goes away. A
full collection looks at all of them: a quarter of a second in which no call is launched and no
answer is read, several times in some thousand calls.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Keep the collector to what is made from here on. Where somebody else froze the heap: no-op.

    Cycles that are garbage at the beginning are freed after the end.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
