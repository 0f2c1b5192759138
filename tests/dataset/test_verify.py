"""Verify: a version that holds, and every way in which one may not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from dataset.drafts import draft, placed, rejections
from nanodistill.dataset import DatasetVersion, verify, write_version
from nanodistill.dataset.manifest import FILE, Manifest
from nanodistill.dataset.rows import DEFAULT, Row, write_rows
from nanodistill.dataset.write import facts_of_files
from nanodistill.errors import FolderError, NanoDistillError, VerificationError
from nanodistill.run_dir import RunFolder

TRAIN = "data/train-00000-of-00001.parquet"


@pytest.fixture
def version(run: RunFolder) -> DatasetVersion:
    return write_version(run, draft(rejected=rejections()))


def opened(path: Path) -> Path:
    path.chmod(0o644)
    return path


def reseal(version: DatasetVersion, **changes: object) -> None:
    """What a forger does: list the files as they are now and seal the manifest again."""
    files = facts_of_files(version.path)
    del files[FILE]
    manifest: Manifest = version.manifest.model_copy(update={"files": files, **changes}).sealed()
    opened(version.path / FILE).write_bytes(manifest.to_bytes())


def rewrite_rows(version: DatasetVersion, rows: list[Row]) -> None:
    opened(version.path / TRAIN).unlink()
    write_rows(version.path / TRAIN, rows, DEFAULT)
    reseal(version)


def test_an_untouched_version_holds(version: DatasetVersion, tmp_path: Path) -> None:
    found = verify(version.path)
    assert (found.files, found.rows) == (6, 14)
    assert verify(shutil.copytree(version.path, tmp_path / "copied")).rows == 14


def test_files_of_the_hub_and_of_file_browsers_do_not_matter(version: DatasetVersion) -> None:
    (version.path / ".gitattributes").write_text("*.parquet filter=lfs")
    (version.path / ".cache" / "huggingface").mkdir(parents=True)
    (version.path / ".cache" / "huggingface" / "x").write_text("x")
    verify(version.path)


def test_any_changed_byte_is_found(version: DatasetVersion) -> None:
    files = [path for path in sorted(version.path.rglob("*")) if path.is_file()]
    assert len(files) == 6
    draw = random.Random(0)
    for path in files:
        content = opened(path).read_bytes()
        spots = {0, len(content) - 1, *draw.sample(range(len(content)), 15)}
        for at in spots:
            changed = bytearray(content)
            changed[at] ^= draw.randrange(1, 256)
            path.write_bytes(changed)
            with pytest.raises(NanoDistillError, match=path.name):
                verify(version.path)
        path.write_bytes(content)
    verify(version.path)


def test_white_space_in_the_manifest_is_found(version: DatasetVersion) -> None:
    path = opened(version.path / FILE)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(VerificationError, match=r"manifest\.json: has changed in its white space"):
        verify(version.path)


def test_all_differences_are_named_at_once(version: DatasetVersion) -> None:
    (version.path / TRAIN).unlink()
    card = opened(version.path / "README.md")
    card.write_text(card.read_text() + "more")
    (version.path / "notes.txt").write_text("mine")
    with pytest.raises(VerificationError) as caught:
        verify(version.path)
    message = str(caught.value)
    assert f"{TRAIN}: is missing" in message
    assert "README.md: has changed since it was written, " in message
    assert "notes.txt: is no part of the version" in message
    assert caught.value.exit_code == 1


def test_a_row_with_a_changed_answer_is_found_though_the_files_are_relisted(
    version: DatasetVersion,
) -> None:
    rows = list(version.rows("train"))
    rows[3]["output"] = "animal" if rows[3]["output"] == "plant" else "plant"
    rewrite_rows(version, rows)
    with pytest.raises(
        VerificationError, match=f"row {rows[3]['id']} has an id that is not the hash"
    ):
        verify(version.path)


def test_a_changed_message_is_found_by_the_fingerprint(version: DatasetVersion) -> None:
    rows = list(version.rows("train"))
    rows[0]["messages"][2]["content"] = "else"
    rewrite_rows(version, rows)
    with pytest.raises(VerificationError, match="the fingerprint is"):
        verify(version.path)


def test_a_changed_instruction_is_found_in_the_rows(version: DatasetVersion) -> None:
    rows = list(version.rows("train"))
    for row in rows[:5]:
        row["messages"][0]["content"] = "else"
    rewrite_rows(version, rows)
    with pytest.raises(VerificationError, match="and 2 more has messages that are not made of"):
        verify(version.path)


def test_a_missing_row_and_a_null_are_found(version: DatasetVersion) -> None:
    rows = list(version.rows("train"))
    rows[0]["input"] = None
    rewrite_rows(version, rows[:-1])
    with pytest.raises(VerificationError) as caught:
        verify(version.path)
    assert "has a null where there never is one" in str(caught.value)
    assert "has 7 rows, the manifest says 8" in str(caught.value)


def test_rows_out_of_order_are_found(version: DatasetVersion) -> None:
    rows = list(version.rows("train"))
    rewrite_rows(version, rows[::-1])
    with pytest.raises(VerificationError, match="fingerprint"):
        verify(version.path)


def test_other_rejections_than_counted_are_found(version: DatasetVersion) -> None:
    counts = version.manifest.counts.model_copy(update={"rejected": {"short": 2}})
    reseal(version, counts=counts)
    with pytest.raises(
        VerificationError, match=r"has {'duplicate': 2}, the manifest says {'short': 2}"
    ):
        verify(version.path)


def test_a_folder_without_a_version_is_no_failed_check(tmp_path: Path) -> None:
    with pytest.raises(FolderError):
        verify(tmp_path)


def test_a_version_with_train_rows_alone_holds(run: RunFolder) -> None:
    assert verify(write_version(run, draft(placed(valid=0, test=0))).path).files == 3
