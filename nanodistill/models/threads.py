"""The end of a thread that has used MLX."""

from __future__ import annotations

import sys


def release_streams() -> None:
    """The last thing that a thread of ours does with MLX; it can't use it afterwards.

    MLX gives each thread streams of its own, with threads behind them. Left to the
    thread's end they are taken down while Python believes it to be over: when the
    interpreter ends at the same moment the process aborts ("terminate called without
    an active exception").
    """
    if "mlx.core" not in sys.modules:
        return
    import mlx.core as mx

    mx.synchronize()
    mx.clear_streams()
