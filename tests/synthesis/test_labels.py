"""Labels that say what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanodistill.events import Notice
from nanodistill.synthesis.generation_prompt import as_text
from nanodistill.synthesis.task import load_task
from synthesis.runs import CHAT, config_in, run
from synthesis.writer import SEEDS, Writer

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
        ({}, "- bug (something is broken)"),
    ],
)
def test_the_teacher_is_told_what_a_label_means(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, labels=MEANINGS, **fields), teacher)
    assert any(said in as_text(request.messages) for request in teacher.asked)
    assert result.dataset is not None
    assert result.dataset.manifest.labels == tuple(MEANINGS)


@pytest.mark.parametrize(
    ("fields", "labels", "told"),
    [
        ({}, ("billing", "bug", "account", "shipping"), 1),
        ({"labels": ["Billing", "billing", *list(MEANINGS)[1:]]}, ("Billing", *MEANINGS), 0),
        ({"labels": ["bug", "bug\u00a0", *MEANINGS]}, ("bug", "billing", "account", "shipping"), 1),
        ({"seed": SEEDS}, tuple(MEANINGS), 0),
    ],
)
def test_spellings_of_one_label_are_told_once(
    tmp_path: Path, fields: dict[str, Any], labels: tuple[str, ...], told: int
) -> None:
    seeds = [dict(seed) for seed in SEEDS]
    seeds[0]["output"] = "Billing\u200b"
    notices: list[str] = []

    def on_event(event: object) -> None:
        if isinstance(event, Notice) and event.level == "warning":
            notices.append(event.text)

    task = load_task(config_in(tmp_path, **({"seed": seeds} | fields)), on_event)
    assert sorted(task.labels) == sorted(labels)
    assert len(notices) == told
