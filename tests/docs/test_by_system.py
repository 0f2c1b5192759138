"""What the page by system says a machine gets is what it gets."""

from __future__ import annotations

import re

import pytest

from docs.pages import ROOT
from nanodistill.config.training_fields import memory_limits
from nanodistill.hardware import Hardware, apple, preset

PAGE = (ROOT / "docs" / "by-system.md").read_text(encoding="utf-8")
MACHINES = {
    "M1, 8 GB": (8, apple("Apple M1", 8, 8)),
    "M2, 16 GB": (16, apple("Apple M2", 16, 8)),
    "M3 Pro, 36 GB": (36, apple("Apple M3 Pro", 36, 12)),
    "M3 Max, 128 GB": (128, apple("Apple M3 Max", 128, 16)),
    "Linux, CPU, 16 GB": (16, Hardware("cpu", "a processor", 8, 16)),
    "Linux, CUDA, 24 GB": (64, Hardware("cuda", "a GPU", 16, 24)),
    "Linux, CUDA, 80 GB": (128, Hardware("cuda", "a GPU", 16, 80)),
}


def told(machine: str) -> tuple[str, dict[str, str]]:
    """The limits of a row of the table, and its settings by name."""
    row = re.search(rf"^\| {re.escape(machine)} \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert row is not None
    return row[1], dict(re.findall(r"`(\w+)` ?([\w.-]*)", row[2]))


@pytest.mark.parametrize("machine", MACHINES)
def test_limits_and_preset(machine: str) -> None:
    memory, hardware = MACHINES[machine]
    limits, settings = told(machine)
    assert limits == "{} and {}".format(*memory_limits(memory))
    chosen = preset(hardware)[1]
    assert settings.keys() == chosen.keys()
    for name, value in chosen.items():
        assert value is True or float(settings[name]) == value


def test_every_kind_of_machine_has_a_run_file() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert headings[1:-1] == [
        "M1, 8 GB", "M2, 16 GB", "M3 Pro, 36 GB", "M3 Max, 128 GB", "Linux, CPU", "Linux, CUDA",
    ]  # fmt: skip
    assert PAGE.count("```toml") == 6
