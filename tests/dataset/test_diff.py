"""Diff: rows that came, went and changed, and what differs in the making."""

from __future__ import annotations

from dataclasses import replace

from dataset.drafts import Placed, draft, placed, trace
from nanodistill.dataset import InputFacts, diff, write_version
from nanodistill.dataset.diff import ConfigChange
from nanodistill.run_dir import RunFolder


def test_a_version_and_itself_do_not_differ(run: RunFolder) -> None:
    version = write_version(run, draft())
    found = diff(version, version)
    assert (found.same, found.came, found.went, found.changed, found.causes) == (12, (), (), (), ())


def test_rows_that_came_went_and_changed(run: RunFolder) -> None:
    rows = placed()
    before = write_version(run, draft(rows))
    after_rows: list[Placed] = [
        ("valid", rows[1][1]),
        ("train", replace(rows[2][1], thinking="Else.")),
        ("train", replace(rows[3][1], output="animal")),
        ("train", replace(rows[4][1], output="plant", source="user")),
        ("train", trace(50)),
        *rows[5:],
    ]
    after = write_version(run, draft(after_rows))
    found = diff(before, after)
    assert found.same == 7
    assert [row.input for row in found.came] == ["word number 50"]
    assert [row.input for row in found.went] == ["word number 0"]
    changes = {change.after.input: change for change in found.changed}
    assert {name: change.fields for name, change in changes.items()} == {
        "word number 1": ("split",),
        "word number 2": ("thinking",),
        "word number 3": ("output",),
        "word number 4": ("source", "output"),
    }
    assert changes["word number 3"].before.output == "plant"
    assert changes["word number 3"].after.output == "animal"
    assert found.causes == ()


def test_another_spacing_of_the_same_row_is_a_change(run: RunFolder) -> None:
    """Its id is the same: identity does not see white space."""
    rows = placed()
    before = write_version(run, draft(rows))
    spaced: list[Placed] = [("train", replace(rows[0][1], input="word  number 0")), *rows[1:]]
    found = diff(before, write_version(run, draft(spaced)))
    assert [change.fields for change in found.changed] == [("input",)]


def test_causes_are_differences_of_the_making(run: RunFolder) -> None:
    seeds = InputFacts(kind="file", name="seeds.jsonl", rows=10, sha256="a" * 64)
    before = write_version(
        run,
        draft(
            config={"temperature": 0.7, "few_shot": 3},
            config_hash="1",
            prompts={"generate": "Write."},
            policy={"tone": "dry"},
            inputs={"seed": seeds},
        ),
    )
    after = write_version(
        run,
        draft(
            placed(train=9),
            config={"temperature": 1.0, "few_shot": 3},
            config_hash="2",
            prompts={"generate": "Write.", "judge": "Judge."},
            policy={"tone": "warm"},
            inputs={"seed": seeds.model_copy(update={"rows": 11, "sha256": "b" * 64})},
            teacher="another",
        ),
    )
    assert set(diff(before, after).causes) == {
        ConfigChange("teacher", "scripted", "another"),
        ConfigChange("setting temperature", "0.7", "1.0"),
        ConfigChange("prompt judge", None, "Judge."),
        ConfigChange("policy tone", "dry", "warm"),
        ConfigChange("seed rows", "10 rows, aaaaaaaa", "11 rows, bbbbbbbb"),
    }


def test_a_hidden_setting_is_told_without_its_value(run: RunFolder) -> None:
    before = write_version(run, draft(config={"a": 1}, config_hash="1"))
    after = write_version(run, draft(config={"a": 1}, config_hash="2"))
    assert diff(before, after).causes == (ConfigChange("a setting that is not shown", None, None),)


def test_repeated_test_rows_are_counted_one_by_one(run: RunFolder) -> None:
    rows = placed()
    before = write_version(run, draft([*rows, rows[-1]]))
    after = write_version(run, draft(rows))
    found = diff(before, after)
    assert (found.same, len(found.went), found.changed) == (12, 1, ())
    assert found.to_json()["went"][0]["split"] == "test"


def test_a_setting_that_only_one_release_has_is_its_default(run: RunFolder) -> None:
    before = write_version(run, draft(config={"name": "a", "temperature": 0.7}, config_hash="1"))
    new = {"name": "a", "temperature": 0.7, "few_shot": 3, "coverage": False}
    after = write_version(run, draft(config=new, config_hash="2"))
    found = {cause.what: (cause.before, cause.after) for cause in diff(before, after).causes}
    assert found == {"setting coverage": ("true", "false")}
