"""The normalization under which an output and its gold answer are compared; see `values`."""

from __future__ import annotations

from nanodistill.values import normalized

__all__ = ["normalized"]
