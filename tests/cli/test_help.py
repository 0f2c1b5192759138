"""What `--help` says of the fields is what the configuration says of them."""

from __future__ import annotations

import re

import pytest

from nanodistill.cli import run
from nanodistill.config.reference import PARTS


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("synth", ["task", "teacher", "data"]),
        ("plan", ["task", "teacher", "data"]),
        ("train", ["training", "machine"]),
        ("eval", ["delivery"]),
        ("export", ["delivery"]),
        ("serve", ["delivery"]),
    ],
)
def test_a_command_lists_the_fields_that_it_goes_by(
    command: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--help"]) == 0
    said = re.sub(r"[\s-]+", "", capsys.readouterr().out)
    for part in parts:
        for name, field in PARTS[part].model_fields.items():
            if name != "allow_out_of_range":
                described = re.sub(r"[\s-]+", "", name + (field.description or ""))
                assert described in said, name


def test_defaults_and_ranges_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Rank of the adapters. [8; 1 to 64]" in said
    assert 'Optimizer. ["adamw"; adamw, adam, sgd, adafactor, muon]' in said
