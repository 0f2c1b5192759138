"""The doubtful rows of a version come first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthesis.runs import config_in, run
from synthesis.test_recheck import NO_THINKING
from synthesis.writer import Writer, right_label

from nanodistill.cli import run as command_line
from nanodistill.curation.suspects import find_suspects

pytest.importorskip("sklearn")


def test_wrong_labels_and_contradicted_rows_come_first(tmp_path: Path) -> None:
    fields = NO_THINKING | {"augment_factor": 20, "recheck_disagreement": "drop"}
    result = run(config_in(tmp_path, **fields), Writer(mislabels=0.1))
    assert result.dataset is not None
    found = find_suspects(result.dataset)
    doubts = [one.doubt for one in found]
    assert doubts == sorted(doubts, reverse=True)
    assert all(0 < doubt < 1 for doubt in doubts)
    dropped = [one for one in found if one.split == "rejected"]
    assert len(dropped) == result.rejected["label_disagreement"] > 0
    kept = [one for one in found if one.split != "rejected"]
    wrong = {row["id"] for split in ("train", "valid") for row in result.dataset.rows(split)
             if right_label(row["input"]) != row["output"]}  # fmt: skip
    assert len(wrong) > 3
    first = [one.id for one in kept[: len(wrong)]]
    assert len(wrong.intersection(first)) >= 0.8 * len(wrong)


def test_the_command_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(config_in(tmp_path, **NO_THINKING), Writer(mislabels=0.2))
    run_file = tmp_path / "run.toml"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    wanted = ("name", "instruction", "output_dir")
    lines = [f"{name} = {json.dumps(config[name])}" for name in wanted]
    run_file.write_text("\n".join([*lines, 'seed = "seeds.jsonl"']))
    (tmp_path / "seeds.jsonl").write_text('{"input": "a", "output": "b"}\n')
    assert command_line(["dataset", "suspects", str(run_file), "--json", "--limit", "3"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result.dataset is not None
    assert values["version"] == result.dataset.name
    assert len(values["suspects"]) == 3
    assert values["suspects"][0].keys() == {"id", "split", "input", "output", "doubt", "reasons"}
