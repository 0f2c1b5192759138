"""Best by task score, through the child, with a metric of ours and one of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from nanodistill.dataset import DatasetVersion
from nanodistill.errors import ConfigError
from nanodistill.run_dir import RunFolder
from nanodistill.training import train
from nanodistill.training.metrics_log import read_records
from training.tiny import make_config, make_student, some_rows

ROWS = some_rows()


def records(student: Path, output: Path, **settings: Any) -> list[dict[str, Any]]:
    config = make_config(
        student, output, best_by="score", eval_steps=2, max_new_tokens=4, **settings
    )
    dataset = cast("DatasetVersion", ROWS)
    result = train(config, dataset, RunFolder(config.run_folder))
    return read_records(Path(str(result.metrics)))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("scored") / "student")


def test_the_validation_rows_are_answered_and_scored(student: Path, tmp_path: Path) -> None:
    scores = [r["score"] for r in records(student, tmp_path) if r["kind"] == "valid"]
    assert len(scores) == 4
    assert all(0 <= score <= 1 for score in scores)


def test_a_metric_of_ones_own_decides(student: Path, tmp_path: Path) -> None:
    """It gives 0.5 to whatever could be read, where the label metric would give 0."""
    metric = tmp_path / "mine.py"
    metric.write_text("def half(output, gold):\n    return 0.5\n")
    found = records(student, tmp_path, metric=f"{metric}:half")
    scored = [r for r in found if r["kind"] == "valid"]
    assert max(r["score"] for r in scored) > 0
    best = max(scored, key=lambda r: (r["score"], -r["loss"]))
    assert [r["update"] for r in scored if r["best"]][-1] == best["update"]


def test_a_metric_that_another_process_can_not_find_is_refused(
    student: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="metric"):
        records(student, tmp_path, metric=lambda output, gold: 1.0)
