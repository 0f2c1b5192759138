"""Keeps Python's garbage collector out of the way of long work.

A process that has imported LiteLLM holds about a million objects that never go away. A full
collection scans all of them: a quarter of a second in which no call starts and no answer is read,
several times in some thousand calls. Collections of the youngest objects, after every 700, cost a
few percent and free next to nothing, because little here is cyclic.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# For gc.set_threshold: new objects before the youngest are collected, and how many such collections
# before each older generation's. Python's own are 700, 10, 10.
THRESHOLDS = 10_000, 20, 20
FROZEN_AT_START = 1000  # Python 3.12 starts with some hundred frozen objects


@contextmanager
def frozen_gc() -> Iterator[None]:
    """Collect only objects created from here on, and less often.

    Cycles that are garbage at the start are freed after the end. Does nothing if the heap is
    already frozen, by us or by the program we are part of.
    """
    if gc.get_freeze_count() > FROZEN_AT_START:
        yield
        return
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
