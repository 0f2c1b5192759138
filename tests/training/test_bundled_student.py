"""A few updates on the embedded model, as the quickstart trains it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from nanodistill.dataset import DatasetVersion
from nanodistill.models.resolve import locate_model
from nanodistill.run_dir import RunFolder
from nanodistill.training import train
from nanodistill.training.metrics_log import read_records
from training.tiny import Rows, make_config, make_row

STUDENT = "smollm2-135m"
ROWS = [
    make_row("I was charged twice this month.", "billing"),
    make_row("The app crashes when I open a photo.", "bug"),
    make_row("I can't sign in any more.", "account"),
    make_row("My parcel has not arrived.", "shipping"),
]


@pytest.mark.skipif(
    not locate_model(STUDENT).is_available, reason="the embedded model is not fetched"
)
def test_the_embedded_model_learns_four_rows(tmp_path: Path) -> None:
    config = make_config(
        Path(STUDENT),
        tmp_path,
        batch_size=4,
        learning_rate=1e-3,
        eval_steps=4,
        mlx_lm_kwargs={"max_steps": 4},
    )
    dataset = cast("DatasetVersion", Rows({"train": ROWS, "valid": ROWS}))
    result = train(config, dataset, RunFolder(config.run_folder))
    records = read_records(Path(str(result.metrics)))
    before, after = (r["loss"] for r in records if r["kind"] == "valid")
    assert after < before - 1
    assert result.epochs == 4
