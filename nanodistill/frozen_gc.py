"""Keeps the cyclic collector out of the way of a long piece of work.

A process that has imported LiteLLM holds some million objects, none of which goes away. A
full collection looks at all of them: a quarter of a second in which no call is launched and no
answer is read, several times in some thousand calls. The small collections, after every 700
objects, cost a few percent more and find next to nothing: little here is cyclic.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = 10_000, 20, 20
"""Objects until the youngest are looked through, and how often that is until the older ones are."""

PYTHONS_OWN = 1000
"""Python 3.12 begins with some hundred frozen objects."""


@contextmanager
def frozen_gc() -> Iterator[None]:
    """Let the collector look at what is made from here on alone, and more seldom.

    Cycles that are garbage at the beginning are freed after the end. Nothing happens where the
    heap is set aside already, by us or by the program that we are part of.
    """
    if gc.get_freeze_count() > PYTHONS_OWN:
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
