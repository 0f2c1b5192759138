"""Who may write a run, and what a crash leaves of a small file."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path

import pytest

from nanodistill.errors import CorruptFileError, NewerVersionError, RunLockedError, disk_full
from nanodistill.run_dir import RunFolder, bytes_in, read_json, write_json


def test_a_second_process_on_the_same_half_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.locked("synth"):
        with pytest.raises(RunLockedError, match="another process"), run.locked("synth"):
            pass
        with run.locked("train"):
            pass
        assert (run.is_locked("synth"), run.is_locked("train")) == (True, False)
    assert not run.is_locked("synth")
    with run.locked("synth"):
        pass


def test_a_newer_folder_is_refused_with_both_versions(tmp_path: Path) -> None:
    write_json(tmp_path / "format.json", {"format": 99})
    refused = pytest.raises(NewerVersionError, match="format 99, this one knows 1")
    with refused, RunFolder(tmp_path).locked("synth"):
        pass


def test_a_small_file_is_replaced_whole_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "index.json"
    write_json(path, {"n": 1})
    write_json(path, {"n": 2})
    assert read_json(path) == {"n": 2}
    assert [file.name for file in path.parent.iterdir()] == ["index.json"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"index\.json"):
        read_json(path)


def test_a_full_disk_is_known_by_its_number() -> None:
    full = disk_full(OSError(errno.ENOSPC, "No space left on device", "out/run/x"))
    assert full is not None
    assert (full.exit_code, full.message) == (3, "There is no room left on the disk of out/run/x.")
    assert disk_full(FileNotFoundError(errno.ENOENT, "No such file")) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_real_full_disk_is_one() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as file,
        pytest.raises(OSError, match="No space left") as failed,
    ):
        file.write(b"x")
    assert disk_full(failed.value) is not None


def test_the_size_of_a_folder_that_another_program_changes(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            deep = tmp_path.joinpath("a", *"bcdefgh")
            deep.mkdir(parents=True)
            (deep / "file").touch()
            (tmp_path / "a").rename(tmp_path / "moved")
            shutil.rmtree(tmp_path / "moved")

    changing = threading.Thread(target=change)
    changing.start()
    try:
        assert {bytes_in(tmp_path) for _ in range(1000)} == {5}
    finally:
        over.set()
        changing.join()
    assert bytes_in(tmp_path / "kept") == 5
    assert bytes_in(tmp_path / "nothing") == 0
