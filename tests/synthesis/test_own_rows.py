"""Rows of the user's own: the same curation, and no teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanodistill.errors import ConfigError, DataError
from nanodistill.synthesis.task import load_task
from synthesis.runs import Notices, config_in, rejected_of, rows_of, run
from synthesis.writer import LABELS, SEEDS, WORDS, Writer

ROWS: list[dict[str, Any]] = [
    {"input": f"{word} and {label} number {n}, as said", "output": label}
    for label in LABELS
    for n, word in enumerate(WORDS[label])
]


def test_they_become_a_version_without_a_call(tmp_path: Path) -> None:
    teacher, heard = Writer(), Notices()
    doubled = [*ROWS, {**ROWS[0], "input": ROWS[0]["input"].upper()}]
    config = config_in(tmp_path, training_data=doubled, teacher="nobody/at-all")
    result = run(config, teacher, on_event=heard)
    assert teacher.asked == []
    assert result.wanted == len(SEEDS) + len(doubled)
    assert result.kept == len(SEEDS) + len(ROWS)
    assert [row["output"] for row in rejected_of(result, "duplicate")] == [LABELS[0]]
    assert {row["source"] for row in rows_of(result)} == {"seed", "user"}
    assert any("thinking format is none" in text for text in heard.texts)
    assert result.dataset is not None
    assert result.dataset.manifest.made_by == "training_data"
    assert result.dataset.manifest.teacher is None


def test_where_some_have_thinking_all_need_it(tmp_path: Path) -> None:
    rows = [row | {"thinking": "by its words"} for row in ROWS[:20]] + ROWS[20:]
    result = run(config_in(tmp_path, training_data=rows), Writer())
    assert result.kept == 20
    assert result.rejected == {"no_thinking": len(SEEDS) + len(ROWS) - 20}


def test_messages_are_read_by_the_thinking_format(tmp_path: Path) -> None:
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["input"]},
                {"role": "assistant", "content": f"<thinking>so</thinking>\n{row['output']}"},
            ]
        }
        for row in ROWS
    ]
    result = run(config_in(tmp_path, training_data=chats), Writer())
    mine = [row for row in rows_of(result) if row["source"] == "user"]
    assert len(mine) == len(ROWS)
    assert {(row["thinking"], row["output"]) for row in mine} == {("so", label) for label in LABELS}


def test_outputs_that_do_not_fit_are_all_named_before_anything(tmp_path: Path) -> None:
    rows = [*ROWS, {"input": "a", "output": "refunds"}, {"input": "b", "output": "spam"}]
    with pytest.raises(DataError) as refused:
        run(config_in(tmp_path, training_data=rows), Writer())
    assert [problem.what.split("'")[1] for problem in refused.value.problems] == ["refunds", "spam"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"holdout_seeds": 12}, "some have to be left"),
        ({"axes": {"topic": {}}}, "axes.topic: has no values"),
        ({"axes": {"label": ["spam"]}}, "axes.label: has spam, the labels are"),
        ({"axes": {"label": ["a"]}, "labels": []}, "the outputs are open"),
        ({"min_rows": 100, "augment_factor": 8}, "is 100, and no more than 96 rows are wanted"),
        ({"axes": {"topic": ["a"]}, "coverage": False}, "no effect with coverage = false"),
        ({"axes": {"mood": {"glad": -1.0, "sad": 2.0}}}, "negative"),
        ({"verifier": "json:__doc__"}, "can't be called"),
        ({"response_parser": "json:loads"}, "lacks `parse_synthetic_examples"),
        ({"response_model": "json:JSONDecoder"}, "is no pydantic model"),
        ({"thinking_format": "yaml"}, "none or module:Class"),
    ],
)
def test_a_configuration_that_cannot_work_costs_nothing(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    teacher = Writer()
    with pytest.raises(ConfigError) as refused:
        run(config_in(tmp_path, **fields), teacher)
    assert says in str(refused.value)
    assert teacher.asked == []


def test_thinking_that_the_format_leaves_out_is_mentioned(tmp_path: Path) -> None:
    seeds = [dict(SEEDS[0], thinking="It says so."), *SEEDS[1:]]
    heard = Notices()
    load_task(config_in(tmp_path, seed=seeds, thinking_format="none"), heard)
    assert any("bring thinking" in text and "row 1" in text for text in heard.texts)
