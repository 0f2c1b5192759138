"""A run folder for each test, and the `datasets` library kept off the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanodistill.run_dir import RunFolder

Load = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "outputs" / "triage")


@pytest.fixture
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """`datasets.load_dataset` of a local folder, with a cache of its own."""
    import datasets

    cache = tmp_path_factory.mktemp("cache")

    def load_folder(folder: Path, *config: str) -> Any:
        datasets.disable_progress_bars()
        return datasets.load_dataset(str(folder), *config, cache_dir=str(cache))

    return load_folder
