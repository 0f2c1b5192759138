from __future__ import annotations

import gc
import weakref

from nanodistill.frozen_gc import frozen_gc


class Ring:
    """Refers to itself, so that the collector alone can free it."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_left_alone_and_all_is_as_before_afterwards() -> None:
    gc.collect()
    thresholds = gc.get_threshold()
    old = weakref.ref(Ring())
    with frozen_gc():
        new = weakref.ref(Ring())
        gc.collect()
        assert (old() is None, new() is None) == (False, True)
        with frozen_gc():
            pass
        assert gc.get_freeze_count()
        assert gc.get_threshold() != thresholds
    assert not gc.get_freeze_count()
    assert gc.get_threshold() == thresholds
    gc.collect()
    assert old() is None
