"""docs/CONFIGURATION.md says what the fields say."""

from __future__ import annotations

from pathlib import Path

from nanodistill.config import DistillationConfig
from nanodistill.config.reference import regenerate

PAGE = Path(__file__).parents[2] / "docs" / "CONFIGURATION.md"
MEND = "run: python -m nanodistill.config.reference docs/CONFIGURATION.md"


def test_tables_are_those_of_the_fields() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert regenerate(text) == text, MEND


def test_every_field_has_its_row_and_a_description() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, field in DistillationConfig.model_fields.items():
        assert text.count(f"| `{name}` |") == 1, name
        assert field.description, name
