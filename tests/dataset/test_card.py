"""The card: what a reader is told, and that the texts of others stay texts in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataset.drafts import Placed, draft, placed, rejections, trace
from nanodistill.dataset import (
    Agreement,
    Calls,
    CellCount,
    DatasetVersion,
    SplitFacts,
    StageCount,
    TokenUsage,
    write_version,
)
from nanodistill.dataset.card import card_of, size_category
from nanodistill.dataset.markdown import cell, fenced, prose
from nanodistill.run_dir import RunFolder


@pytest.fixture
def full(run: RunFolder) -> DatasetVersion:
    """A version of which everything is known."""
    return write_version(
        run,
        draft(
            rejected=rejections(),
            wanted=20,
            requested=15,
            failed={"timeout": 3},
            agreement=Agreement(agreed=7, of=10, low=0.397, high=0.892),
            stages=(StageCount(stage="near duplicates", reached=12, refused=2),),
            split=SplitFacts(val_split=0.2, random_seed=0, groups=10, valid_groups=2),
            calls=Calls(made=30, reused=4, retried=2),
            usage=TokenUsage(prompt_tokens=1234, completion_tokens=567),
            cost_usd=0.0123,
            prompts={"generate": "Write rows.\n```json\n[]\n```"},
            policy={"tone": "dry"},
            stopped_because="budget: $1.00 of max_cost_usd $1.00",
            notes=("Two seeds repeat.",),
        ),
    )


def card(version: DatasetVersion) -> str:
    return (version.path / "README.md").read_text(encoding="utf-8")


def yaml_of(text: str) -> dict[str, Any]:
    """The header as the Hub's own library reads it."""
    from huggingface_hub import DatasetCard

    data: Any = DatasetCard(text).data
    found: dict[str, Any] = data.to_dict()
    return found


def test_the_card_is_made_of_the_manifest_alone(full: DatasetVersion) -> None:
    assert card_of(full.manifest) == card(full)


def test_figures_that_are_known_are_told(full: DatasetVersion) -> None:
    text = card(full)
    for told in (
        "8 training, 2 validation and 2 test rows",
        "20 rows were wanted. 15 candidate rows: 10 kept, 2 rejected, 3 lost to failed calls.",
        r"Generation ended: budget: \$1.00 of max\_cost\_usd \$1.00.",
        "| blind check of the seeds | the teacher agrees on 7 of 10 (95%: 40% to 89%) |",
        "| label noise | not measured |",
        "| animal | 4 | 1 | 1 |",
        "| near duplicates | 12 | 2 |",
        "| duplicate | 2 |",
        "| timeout | 3 |",
        "| written by the teacher when asked to think | 10 |",
        "| calls | 30 made, 4 reused, 2 attempts repeated |",
        "| prompt tokens | 1234 |",
        "| cost in USD | 0.0123 |",
        "Validation is 20% of the kept rows (20% wanted), 2 of 10 groups",
        "distinct-1 0.417, distinct-2 0.562, distinct-3 1.000 (different word n-grams over all of "
        "them, in 8 training rows)",
        "| duplicates rejected | 2 exact, 0 near",
        "| contamination rejected | 0 rows",
        "Note: Two seeds repeat.",
        "The terms of its provider apply",
        full.fingerprint,
    ):
        assert told in text, told


def test_what_is_not_known_is_said_to_be_unknown(run: RunFolder) -> None:
    text = card(write_version(run, draft()))
    for name in ("calls", "prompt tokens", "completion tokens", "cost in USD"):
        assert f"| {name} | unknown |" in text
    assert "| settings | unknown |" in text


def test_a_teacher_that_counts_no_tokens_is_not_said_to_have_used_none(run: RunFolder) -> None:
    none = TokenUsage(prompt_tokens=0, completion_tokens=0)
    assert "| prompt tokens | unknown |" in card(write_version(run, draft(usage=none)))


def test_many_places_of_the_plan_are_summed_up_by_axis(run: RunFolder) -> None:
    rows: list[Placed] = [("train", trace(n)) for n in range(30)]
    cells = {"outside the plan": CellCount(requested=2, kept=2)} | {
        f"label=l{n % 2}; topic=t{n % 7}": CellCount(
            requested=3, kept=2, rejected={"duplicate": int(n % 2 == 0)}, failed={"x": n % 2}
        )
        for n in range(14)
    }
    account: dict[str, Any] = {"requested": 44, "cells": cells, "failed": {"x": 7}}
    text = card(write_version(run, draft(rows, rejections(7), **account)))
    assert "The coverage plan came to 14 places. Their account by axis:" in text
    assert "| axis | value | requested | kept | rejected | failed |" in text
    assert "| label | l1 | 21 | 14 | 0 | 7 |" in text
    assert "| topic | t6 | 6 | 4 | 1 | 1 |" in text
    assert "| outside the plan |  | 2 | 2 | 0 | 0 |" in text


def test_few_places_of_the_plan_are_shown_with_their_account(run: RunFolder) -> None:
    cells = {
        "outside the plan": CellCount(requested=2, kept=2),
        "label=animal": CellCount(requested=10, kept=8, rejected={"duplicate": 2}),
    }
    text = card(write_version(run, draft(rejected=rejections(), requested=12, cells=cells)))
    assert "| outside the plan | 2 | 2 | 0 | 0 |" in text
    assert "| label=animal | 10 | 8 | 2 | 0 |" in text


def test_the_way_to_the_rejected_rows_is_shown_where_there_are_any(full: DatasetVersion) -> None:
    assert f'load_dataset("{full.name}", "rejected")' in card(full)
    counts = full.manifest.counts.model_copy(update={"rejected": {}})
    assert '"rejected")' not in card_of(full.manifest.model_copy(update={"counts": counts}))


def test_a_task_that_nobody_described_is_not_the_teachers(run: RunFolder) -> None:
    policy, config = {"tone": "dry", "topics": []}, {"extract_policy": False}
    text = card(write_version(run, draft(policy=policy, config=config)))
    assert "### The task as derived from instruction and seeds" in text
    assert "topics" not in text
    assert "| blind check of the seeds | not measured |" in text


def test_without_a_test_split_no_figure_is_called_a_test(run: RunFolder) -> None:
    text = card(write_version(run, draft(placed(test=0), test_source=None)))
    assert "There is no test split. Figures taken on `valid` are no test" in text


def test_without_a_teacher_none_is_spoken_of(run: RunFolder) -> None:
    text = card(write_version(run, draft(teacher=None, made_by="training_data")))
    assert "no teacher was asked" in text
    assert "## Teacher" not in text
    assert "synthetic" not in yaml_of(text)["tags"]


def test_prompts_stand_in_full_in_a_fence_that_they_cannot_close(full: DatasetVersion) -> None:
    assert "````text\nWrite rows.\n```json\n[]\n```\n````" in card(full)


def test_a_card_is_called_by_the_runs_name(full: DatasetVersion) -> None:
    config = {**full.manifest.config, "name": "tickets"}
    text = card_of(full.manifest.model_copy(update={"config": config}))
    assert f"\n# tickets ({full.name})\n" in text
    assert yaml_of(text)["pretty_name"] == f"tickets ({full.name})"


def test_the_header_is_what_the_hub_reads(full: DatasetVersion) -> None:
    text = card(full)
    held = yaml_of(text)
    assert held["pretty_name"] == full.name
    assert f"\n# {full.name}\n" in text
    assert held["license"] == "other"
    assert held["task_categories"] == ["text-classification"]
    assert held["size_categories"] == ["n<1K"]
    assert held["configs"] == [
        {
            "config_name": "default",
            "default": True,
            "data_files": [
                {"split": split, "path": f"data/{split}-*.parquet"}
                for split in ("train", "valid", "test")
            ],
        },
        {
            "config_name": "rejected",
            "data_files": [{"split": "rejected", "path": "rejected/*.parquet"}],
        },
    ]


def test_open_outputs_are_no_classification(run: RunFolder) -> None:
    text = card(write_version(run, draft(labels=None)))
    assert yaml_of(text)["task_categories"] == ["text-generation"]
    assert "| output | train |" not in text


@pytest.mark.parametrize(
    ("rows", "category"),
    [(10, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (2_000_000, "n>1M")],
)
def test_size_categories(full: DatasetVersion, rows: int, category: str) -> None:
    counts = full.manifest.counts.model_copy(update={"train": rows, "valid": 0, "test": 0})
    assert size_category(full.manifest.model_copy(update={"counts": counts})) == category


def test_the_code_in_the_card_runs(full: DatasetVersion, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)\n```", card(full), re.DOTALL)
    assert found
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=full.path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "'role': 'system'" in done.stdout


def test_texts_of_others_are_shown_as_text() -> None:
    assert cell("a|b\n<script>") == r"a\|b \<script\>"
    assert cell("x" * 100) == "x" * 59 + "…"
    assert prose("# *not* [a](link)") == r"\# \*not\* \[a\](link)"
    assert fenced("````").startswith("`````text\n")
