"""Versions and their differences as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dataset.drafts import Placed, draft, placed, rejections, trace
from nanodistill.dataset import Agreement, diff, repair_index, write_version
from nanodistill.dataset.quality import quality_facts
from nanodistill.dataset.tables import diff_tables, short, version_tables, versions_table
from nanodistill.run_dir import RunFolder


def test_a_version(run: RunFolder) -> None:
    agreement = Agreement(agreed=7, of=10, low=0.397, high=0.892)
    facts: dict[str, Any] = {"cost_usd": 0.5, "wanted": 20, "agreement": agreement}
    version = write_version(run, draft(rejected=rejections(), **facts))
    about, outputs, first = version_tables(version, rows=3)
    told = {line[0]: line[1] for line in about.rows}
    assert told == {
        "fingerprint": version.fingerprint,
        "made": f"{version.manifest.created}, by synthesis",
        "teacher": "scripted",
        "rows": "8 train, 2 valid, 2 test",
        "wanted": "20",
        "requested": "12",
        "rejected": "2 duplicate",
        "cost": "$0.50",
        "distinct-2": "0.562 over 8 training rows",
        **dict(quality_facts(version.manifest)),
    }
    assert outputs.columns == ("output", "train", "valid", "test")
    assert outputs.rows == (("animal", "4", "1", "1"), ("plant", "4", "1", "1"))
    assert len(first.rows) == 3


def test_the_versions_of_a_run(run: RunFolder) -> None:
    first = write_version(run, draft())
    second = write_version(run, draft(placed(train=9)))
    names = [row[0] for row in versions_table(repair_index(run)).rows]
    assert names == [first.name, f"{second.name} (latest)"]


def test_a_diff(run: RunFolder) -> None:
    rows = placed()
    before = write_version(run, draft(rows))
    after_rows: list[Placed] = [("train", replace(rows[0][1], output="plant")), *rows[2:]]
    after_rows += [("train", trace(50 + n)) for n in range(12)]
    after = write_version(run, draft(after_rows, teacher="another"))
    sums, why, came, went, changed = diff_tables(diff(before, after))
    assert [n for _, n in sums.rows] == ["10", "12", "1", "1"]
    assert why.rows == (("teacher", "scripted", "another"),)
    assert came.title == "Came (the first 10 of 12)"
    assert len(came.rows) == 10
    assert went.rows == (("train", "plant", "word number 1"),)
    assert changed.rows == (("word number 0", "output", "animal", "plant"),)


def test_of_long_causes_that_part_is_shown_which_differs(run: RunFolder) -> None:
    same = "word " * 60
    before = write_version(run, draft(prompts={"generate": same + "the old end"}))
    after = write_version(run, draft(placed(9), prompts={"generate": same + "the new end"}))
    _, why, *_ = diff_tables(diff(before, after))
    ((what, old, new),) = why.rows
    assert what == "prompt generate"
    assert old.startswith("… ")
    assert old.endswith("the old end")
    assert new.endswith("the new end")


def test_long_texts_are_cut_on_one_line() -> None:
    assert short("a\n b") == "a b"
    assert short("x" * 200) == "x" * 99 + "…"
