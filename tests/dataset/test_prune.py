"""Prune: what may go, and what must not."""

from __future__ import annotations

import json

import pytest

from dataset.drafts import draft, placed
from nanodistill.dataset import DatasetVersion, prunable, prune, repair_index, write_version
from nanodistill.errors import ProblemsError
from nanodistill.run_dir import RunFolder


@pytest.fixture
def versions(run: RunFolder) -> list[DatasetVersion]:
    found = [write_version(run, draft(placed(train=n))) for n in (5, 6, 7, 8)]
    folder = run.training / "20250101-1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"dataset": found[1].fingerprint}))
    return found


def test_what_is_needed_stays(run: RunFolder, versions: list[DatasetVersion]) -> None:
    assert [(version.name, version.keep_reason) for version in prunable(run)] == [
        (versions[0].name, None),
        (versions[1].name, "is what training/20250101-1 was trained on"),
        (versions[2].name, None),
        (versions[3].name, "is the latest"),
    ]
    gone = prune(run, None)
    assert [version.name for version in gone] == [versions[0].name, versions[2].name]
    assert gone[0].bytes > 5000
    assert repair_index(run).names == [versions[1].name, versions[3].name]
    assert not versions[0].path.exists()
    assert [path.name for path in run.datasets.glob(".*")] == []


def test_an_earlier_version_may_be_the_latest(
    run: RunFolder, versions: list[DatasetVersion]
) -> None:
    assert write_version(run, draft(placed(train=5))) == versions[0]
    needed = {version.name: version.keep_reason for version in prunable(run)}
    assert needed[versions[0].name] == "is the latest"
    assert needed[versions[3].name] is None


def test_naming_one_that_has_to_stay_removes_nothing(
    run: RunFolder, versions: list[DatasetVersion]
) -> None:
    with pytest.raises(ProblemsError) as caught:
        prune(run, [versions[0].name, versions[3].name, "v0009-00000000"])
    assert [str(problem) for problem in caught.value.problems] == [
        f"{versions[3].name}: is the latest",
        "v0009-00000000: is no version of this run",
    ]
    assert versions[0].path.exists()


def test_named_ones_alone_go(run: RunFolder, versions: list[DatasetVersion]) -> None:
    prune(run, [versions[2].name])
    assert repair_index(run).names == [versions[n].name for n in (0, 1, 3)]


def test_a_number_is_not_given_twice(run: RunFolder, versions: list[DatasetVersion]) -> None:
    prune(run, None)
    assert write_version(run, draft(placed(train=9))).name.startswith("v0005-")


def test_a_run_without_versions_has_nothing_to_prune(run: RunFolder) -> None:
    assert prune(run, None) == []
