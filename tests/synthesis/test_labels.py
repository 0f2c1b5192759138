"""Labels that say what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synthesis.runs import CHAT, config_in, run
from synthesis.writer import Writer

MEANINGS = {
    "billing": "charges and refunds",
    "bug": "something is broken",
    "account": "signing in",
    "shipping": "parcels",
}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (CHAT, "Write a new example of bug (something is broken)."),
        ({}, '"bug" (something is broken) and clearly none of: '),
    ],
)
def test_the_teacher_is_told_what_a_label_means(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, labels=MEANINGS, **fields), teacher)
    assert any(said in request.messages[-1]["content"] for request in teacher.asked)
    assert result.dataset is not None
    assert result.dataset.manifest.labels == tuple(MEANINGS)
