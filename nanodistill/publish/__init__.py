"""What of a run is pushed: its dataset version, its adapter or its fused model.

bundles       push_run(): the files of an adapter or an exported model, and where they go
model_card    README.md of a model, made from manifests and results
"""

from __future__ import annotations

from nanodistill.publish.bundles import What, push_run

__all__ = ["What", "push_run"]
