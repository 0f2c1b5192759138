"""What of a run is pushed, and how: its dataset version, its adapter or its fused model.

models       the files of an adapter and of an exported model, and what they say of themselves
modelcard    README.md of a model, made from manifests and results
pushing      push_run(): from a run to a repository
"""

from __future__ import annotations

from nanodistill.sharing.pushing import What, push_run

__all__ = ["What", "push_run"]
