"""A run to be reported, empty at first."""

from __future__ import annotations

from pathlib import Path

import pytest

from reporting.factories import RunFactory


@pytest.fixture
def factory(tmp_path: Path) -> RunFactory:
    return RunFactory(tmp_path)
