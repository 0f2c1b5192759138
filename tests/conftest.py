"""Fixtures that tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from providers.server import TeacherServer


@pytest.fixture
def teacher_server() -> Iterator[TeacherServer]:
    """A teacher on loopback that records what it hears; see tests/providers/server.py."""
    with TeacherServer() as server:
        yield server
