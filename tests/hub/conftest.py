"""A small Hub, a version to push to it, and huggingface_hub set up to talk to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset.drafts import draft, rejections
from huggingface_hub import close_session, constants

from hub.small_hub import WRITER, SmallHub
from nanodistill.dataset import DatasetVersion, write_version
from nanodistill.hub import Hub
from nanodistill.run_dir import RunFolder


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """Without Xet, a store beside the Hub that large files go to where it is installed."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with SmallHub() as small:
        yield small
        close_session()


@pytest.fixture
def hub(small_hub: SmallHub, tmp_path: Path) -> Hub:
    return as_account(small_hub, tmp_path, WRITER)


def as_account(small: SmallHub, tmp_path: Path, token: str | None) -> Hub:
    return Hub(small.endpoint, token, tmp_path / "cache")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "outputs" / "triage")


@pytest.fixture
def version(run: RunFolder) -> DatasetVersion:
    return write_version(run, draft(rejected=rejections()))


def environment(small: SmallHub, home: Path) -> dict[str, str]:
    """For a process of its own: huggingface_hub reads its settings once."""
    settings = {
        "HF_ENDPOINT": small.endpoint,
        "HF_TOKEN": WRITER,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return {**os.environ, **settings}
