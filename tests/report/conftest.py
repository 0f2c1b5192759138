"""A run to be reported, empty at first."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.made import Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)
