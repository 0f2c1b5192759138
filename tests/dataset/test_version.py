"""Which version is meant, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset.drafts import draft, placed, rejections
from nanodistill.data_files import HubDataset
from nanodistill.dataset import open_version, parse_dataset_ref, write_version
from nanodistill.dataset.read import NamedVersion
from nanodistill.errors import CorruptFileError, FolderError, NewerVersionError, NoDatasetError
from nanodistill.run_dir import RunFolder


def test_words_for_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody" / "here").mkdir(parents=True)
    assert parse_dataset_ref(None) is None
    assert parse_dataset_ref("v0001") == NamedVersion("v0001")
    assert parse_dataset_ref("v12-0a1b2c3d") == NamedVersion("v12-0a1b2c3d")
    assert parse_dataset_ref("somebody/here") == Path("somebody/here")
    assert parse_dataset_ref(Path("a/b")) == Path("a/b")
    assert parse_dataset_ref("somebody/there") == HubDataset("somebody/there")
    assert parse_dataset_ref("somebody/there@v0001") == HubDataset("somebody/there", "v0001")
    assert parse_dataset_ref("./somebody/there") == Path("somebody/there")
    assert parse_dataset_ref("/a/b/c") == Path("/a/b/c")


def test_the_latest_by_number_by_name_and_by_folder(run: RunFolder) -> None:
    first = write_version(run, draft())
    second = write_version(run, draft(placed(train=9)))
    assert open_version(None, run) == second
    assert open_version("v0001", run) == open_version("v1", run) == first
    assert open_version(first.name, run) == first
    assert open_version(str(first.path), None) == first


def test_rows_come_by_split_in_order_of_id(run: RunFolder) -> None:
    version = write_version(run, draft(rejected=rejections()))
    ids = [row["id"] for row in version.rows("train")]
    assert ids == sorted(ids)
    assert len(ids) == version.counts.train == 8
    assert [row["reason"] for row in version.rejected()] == ["duplicate", "duplicate"]
    assert list(write_version(run, draft(placed(test=0))).rows("test")) == []


def test_a_run_without_a_version_says_the_next_step(run: RunFolder) -> None:
    with pytest.raises(NoDatasetError) as caught:
        open_version(None, run)
    assert caught.value.exit_code == 3
    assert "nanodistill synth" in str(caught.value)
    assert not run.root.exists()


def test_an_unknown_version_names_those_there_are(run: RunFolder) -> None:
    version = write_version(run, draft())
    with pytest.raises(FolderError, match=f"no dataset version v0007: there are {version.name}"):
        open_version("v0007", run)
    with pytest.raises(FolderError, match="v0001-00000000"):
        open_version("v0001-00000000", run)


def test_a_folder_that_is_none_or_holds_none(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no folder"):
        open_version(tmp_path / "nothing", None)
    with pytest.raises(FolderError, match=r"no dataset version: it has no manifest\.json"):
        open_version(tmp_path, None)


def test_a_newer_manifest_is_refused(run: RunFolder) -> None:
    version = write_version(run, draft())
    path = version.path / "manifest.json"
    path.chmod(0o644)
    path.write_text(json.dumps({"format": 2, "something": "else"}))
    with pytest.raises(NewerVersionError, match="manifest format 2, this one knows 1"):
        open_version(version.path, None)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', ""])
def test_a_torn_manifest_says_what_to_do(run: RunFolder, content: str) -> None:
    version = write_version(run, draft())
    path = version.path / "manifest.json"
    path.chmod(0o644)
    path.write_text(content)
    with pytest.raises(CorruptFileError, match=r"manifest\.json"):
        open_version(None, run)


@pytest.mark.parametrize("content", ["{", '{"versions": 3}'])
def test_a_torn_index_says_what_to_do(run: RunFolder, content: str) -> None:
    write_version(run, draft())
    (run.datasets / "index.json").write_text(content)
    with pytest.raises(CorruptFileError, match=r"index\.json"):
        open_version(None, run)


def test_torn_rows_are_an_error_with_the_file(run: RunFolder) -> None:
    version = write_version(run, draft())
    path = version.path / "data/train-00000-of-00001.parquet"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match="train-00000"):
        list(version.rows("train"))
    path.unlink()
    with pytest.raises(CorruptFileError, match="is missing"):
        list(version.rows("train"))
