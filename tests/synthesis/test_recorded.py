"""The prompts that a capable teacher has answered are still the ones that are sent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from nanodistill.curation.suspects import find_suspects
from synthesis.recorded import SUPPORT, replay


def test_every_request_has_a_recorded_answer(tmp_path: Path) -> None:
    teacher, result = replay(SUPPORT, tmp_path)
    assert not teacher.unknown, (
        f"{len(teacher.unknown)} requests are new; see recorded.py.\n{teacher.first_difference()}"
    )
    assert result.kept == 240
    assert result.dataset is not None
    rows = [row for split in ("train", "valid") for row in result.dataset.rows(split)]
    assert set(Counter(row["output"] for row in rows).values()) == {60}
    assert len(find_suspects(result.dataset)) < 60
