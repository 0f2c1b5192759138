"""NanoDistill: about ten seed examples and one instruction in, a small model of your own out."""

from __future__ import annotations

__version__ = "0.1.0"
