"""Writing versions: what lies there afterwards, whatever happened on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.conftest import Load
from dataset.drafts import INSTRUCTION, Placed, draft, placed, rejections, trace
from nanodistill.dataset import DatasetVersion, open_version, repair_index, verify, write_version
from nanodistill.dataset.read import writing
from nanodistill.dataset.rows import fingerprint_of, messages_of, row_line, row_of
from nanodistill.errors import DiskFullError, NoDatasetError, RunLockedError, TooFewRowsError
from nanodistill.run_dir import RunFolder
from nanodistill.thinking import FORMATS
from nanodistill.types import Trace

COLUMNS = {
    "id": "string",
    "messages": "list<element: struct<role: string, content: string>>",
    "input": "string",
    "thinking": "string",
    "output": "string",
    "source": "string",
    "seed_ids": "list<element: string>",
    "cell": "string",
    "confidence": "double",
    "teacher": "string",
    "request_keys": "list<element: string>",
    "thinking_from": "string",
}


def index_of(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.datasets / "index.json").read_text())
    return found


def fingerprint(rows: list[Placed], shape: str = "xml", instruction: str = INSTRUCTION) -> str:
    lines = [
        row_line(row_of(row, messages_of(row, instruction, FORMATS[shape])), split)
        for split, row in rows
    ]
    return fingerprint_of(sorted(lines))


def test_the_datasets_library_finds_the_splits(run: RunFolder, load: Load) -> None:
    version = write_version(run, draft(rejected=rejections()))
    loaded = load(version.path)
    assert {name: split.num_rows for name, split in loaded.items()} == {
        "train": 8,
        "valid": 2,
        "test": 2,
    }
    row = loaded["train"].filter(lambda row: row["input"] == "word number 3")[0]
    assert row == {
        "id": trace(3).id,
        "messages": [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": "word number 3"},
            {
                "role": "assistant",
                "content": "<thinking>\nI look at word 3.\n</thinking>\n\nplant",
            },
        ],
        "input": "word number 3",
        "thinking": "I look at word 3.",
        "output": "plant",
        "source": "synthetic",
        "seed_ids": ["seed a", "seed b"],
        "cell": "cell 0",
        "confidence": None,
        "teacher": "scripted",
        "request_keys": ["key 3"],
        "thinking_from": "teacher",
    }
    rejected = load(version.path, "rejected")["rejected"]
    assert [(row["reason"], row["detail"]) for row in rejected] == [
        ("duplicate", detail) for detail in rejected["detail"]
    ]
    assert sorted(rejected["detail"]) == ["of word 0", "of word 1"]


def test_every_split_has_the_same_explicit_types(run: RunFolder) -> None:
    """The test rows have no thinking, no seeds and no confidence at all."""
    import pyarrow.parquet as pq

    version = write_version(run, draft())
    for split in ("train", "valid", "test"):
        schema = pq.read_schema(version.path / f"data/{split}-00000-of-00001.parquet")
        assert {field.name: str(field.type) for field in schema} == COLUMNS


def test_an_empty_split_is_not_there(run: RunFolder, load: Load) -> None:
    version = write_version(run, draft(placed(valid=0, test=0)))
    assert list(load(version.path)) == ["train"]
    files = [path.name for path in version.path.rglob("*") if path.is_file()]
    assert sorted(files) == ["README.md", "manifest.json", "train-00000-of-00001.parquet"]


def test_thinking_is_null_with_the_format_none(run: RunFolder) -> None:
    version = write_version(run, draft(shape="none"))
    rows = list(version.rows("train"))
    assert {row["thinking"] for row in rows} == {None}
    assert {row["thinking_from"] for row in rows} == {None}
    assert {row["messages"][2]["content"] for row in rows} == {"animal", "plant"}


def test_the_fingerprint_is_the_hash_that_it_is_said_to_be(run: RunFolder) -> None:
    version = write_version(run, draft())
    digest = hashlib.sha256(b"nanodistill.dataset.v1\0")
    rows = [(row, split) for split in ("train", "valid", "test") for row in version.rows(split)]
    for row, split in sorted(rows, key=lambda each: each[0]["id"]):
        names = ("messages", "source", "seed_ids", "cell", "confidence")
        held = [row["id"], split, *(row[name] for name in names)]
        line = json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(line.encode() + b"\n")
    assert version.fingerprint == digest.hexdigest()
    assert version.name == f"v0001-{version.fingerprint[:8]}"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_arrival_is_in_neither_fingerprint_nor_files(seed: int) -> None:
    import tempfile

    rows = placed(train=30, valid=5)
    shuffled = random.Random(seed).sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        first = write_version(RunFolder(Path(folder) / "a"), draft(rows))
        second = write_version(RunFolder(Path(folder) / "b"), draft(shuffled))
        assert first.fingerprint == second.fingerprint
        for name in first.manifest.files:
            if name.endswith(".parquet"):
                assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"input": "else"}, True),
        ({"output": "else"}, True),
        ({"thinking": "else"}, True),
        ({"source": "user"}, True),
        ({"seed_ids": ("seed a",)}, True),
        ({"cell": "else"}, True),
        ({"confidence": 0.5}, True),
        ({"teacher": "else"}, False),
        ({"request_keys": ("else",)}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_fingerprint_sees(change: dict[str, Any], counts: bool) -> None:
    rows = placed()
    changed: list[Placed] = [("train", replace(rows[0][1], **change)), *rows[1:]]
    assert (fingerprint(changed) != fingerprint(rows)) is counts


def test_the_fingerprint_sees_split_instruction_and_format() -> None:
    rows = placed()
    moved: list[Placed] = [("valid", rows[0][1]), *rows[1:]]
    found = [
        fingerprint(rows),
        fingerprint(moved),
        fingerprint(rows, "json"),
        fingerprint(rows, instruction="Say something else."),
    ]
    assert len(set(found)) == 4


def test_a_confidence_of_one_hashes_the_same_as_it_reads_back(run: RunFolder) -> None:
    version = write_version(run, draft([("train", trace(1, confidence=1))]))
    verify(version.path)
    assert next(version.rows("train"))["confidence"] == 1.0


def test_the_same_again_is_the_same_version(run: RunFolder) -> None:
    first = write_version(run, draft())
    stamps = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    again = write_version(run, draft(wanted=99, cost_usd=1.0))
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == stamps
    assert [entry["name"] for entry in index_of(run)["versions"]] == [first.name]


def test_another_schema_over_the_same_rows_is_another_version(run: RunFolder) -> None:
    first = write_version(run, draft())
    second = write_version(run, draft(response_schema={"type": "string"}))
    assert first.fingerprint == second.fingerprint
    assert second.name == f"v0002-{first.fingerprint[:8]}"


def test_going_back_makes_the_earlier_version_the_latest_again(run: RunFolder) -> None:
    first = write_version(run, draft())
    second = write_version(run, draft(placed(train=9)))
    assert open_version(None, run) == second
    assert write_version(run, draft()) == first
    assert open_version(None, run) == first
    assert [entry["name"] for entry in index_of(run)["versions"]] == [first.name, second.name]


def test_a_damaged_version_is_not_taken_for_the_same(run: RunFolder) -> None:
    first = write_version(run, draft())
    card = first.path / "README.md"
    card.chmod(0o644)
    card.write_text("gone")
    second = write_version(run, draft())
    assert second.name == f"v0002-{first.fingerprint[:8]}"
    verify(second.path)


def test_files_of_a_version_are_read_only(run: RunFolder) -> None:
    version = write_version(run, draft(rejected=rejections()))
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in version.path.rglob("*") if p.is_file()}
    assert len(modes) == 6
    assert not any(mode & 0o222 for mode in modes.values())


def test_a_version_that_the_index_missed_is_found_as_the_latest(run: RunFolder) -> None:
    write_version(run, draft())
    index = (run.datasets / "index.json").read_bytes()
    second = write_version(run, draft(placed(train=9)))
    (run.datasets / "index.json").write_bytes(index)
    assert open_version(None, run) == second
    assert index_of(run)["latest"] == second.name


def test_a_lost_index_is_made_again(run: RunFolder) -> None:
    write_version(run, draft())
    second = write_version(run, draft(placed(train=9)))
    before = index_of(run)
    (run.datasets / "index.json").unlink()
    assert open_version(None, run) == second
    assert index_of(run) == before


def test_a_deleted_version_leaves_the_index(run: RunFolder) -> None:
    import shutil

    first = write_version(run, draft())
    second = write_version(run, draft(placed(train=9)))
    shutil.rmtree(second.path)
    assert open_version(None, run) == first
    assert repair_index(run).names == [first.name]


def test_while_another_process_writes_the_index_is_left_to_it(run: RunFolder) -> None:
    version = write_version(run, draft())
    (run.datasets / "index.json").unlink()
    with writing(run):
        assert open_version(None, run) == version
        assert not (run.datasets / "index.json").exists()
        with pytest.raises(RunLockedError, match="datasets"), writing(run, wait=0):
            pass
    assert open_version(None, run) == version
    assert index_of(run)["latest"] == version.name


def test_rows_that_break_off_leave_nothing(run: RunFolder) -> None:
    def rows() -> Iterator[Placed]:
        yield from placed()
        raise KeyError("broke off")

    with pytest.raises(KeyError):
        write_version(run, replace(draft(), rows=rows()))
    assert list(run.datasets.iterdir()) == []
    with pytest.raises(NoDatasetError, match="no dataset version yet"):
        open_version(None, run)


KILLED = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from dataset.drafts import draft, placed
from nanodistill.dataset import write_version
from nanodistill.run_dir import RunFolder

def rows():
    yield from placed()
    os.kill(os.getpid(), signal.SIGKILL)

write_version(RunFolder(Path(sys.argv[1])), replace(draft(), rows=rows()))
"""


def test_a_killed_writer_leaves_no_version_and_bars_nobody(run: RunFolder) -> None:
    tests = str(Path(__file__).parent.parent)
    code = f"import sys; sys.path[:0] = [{tests!r}, {str(Path(tests).parent)!r}]\n{KILLED}"
    killed = subprocess.run([sys.executable, "-c", code, str(run.root)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in run.datasets.iterdir()] == [".building"]
    version = write_version(run, draft())
    verify(version.path)
    assert sorted(path.name for path in run.datasets.iterdir()) == ["index.json", version.name]


def test_a_full_disk_is_said_and_leaves_nothing(run: RunFolder) -> None:
    def rows() -> Iterator[Placed]:
        yield from placed()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="No room left"):
        write_version(run, replace(draft(), rows=rows()))
    assert list(run.datasets.iterdir()) == []


def test_no_kept_row_is_no_version(run: RunFolder) -> None:
    with pytest.raises(TooFewRowsError, match=r"No row was kept: 2 were rejected \(2 duplicate\)"):
        write_version(run, draft(placed(0, 0, 2), rejections()))


@pytest.mark.parametrize("facts", [{"requested": 11}, {"failed": {"timeout": 1}}])
def test_an_account_that_does_not_add_up_is_refused(run: RunFolder, facts: Any) -> None:
    with pytest.raises(ValueError, match=r"requested 1[01] is not kept 10"):
        write_version(run, draft(**facts))


def test_an_account_by_cell_has_to_add_up_too(run: RunFolder) -> None:
    cells = {"a": {"requested": 10, "kept": 9, "rejected": {"duplicate": 1}}}
    with pytest.raises(ValueError, match="by cell"):
        write_version(run, draft(cells=cells))


def test_a_row_in_two_splits_is_refused(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="more than once"):
        write_version(run, draft([*placed(), ("test", trace(0))]))


def test_a_test_file_may_repeat_itself(run: RunFolder) -> None:
    rows = placed()
    version = write_version(run, draft([*rows, rows[-1]]))
    assert version.counts.test == 3
    verify(version.path)


def test_texts_of_all_kinds_read_back(run: RunFolder) -> None:
    odd = ["\u2028 line\r\n", "\U0001f40d snake", "'; drop table kept; --", '"\\', "a\tb", "é", "é"]
    rows: list[Placed] = [
        ("train", Trace(text + str(n), text, "user")) for n, text in enumerate(odd)
    ]
    version = write_version(run, draft(rows, labels=None))
    verify(version.path)
    assert sorted(row["output"] for row in version.rows("train")) == sorted(odd)
    assert version.counts.train == len(odd)


def test_reading_needs_no_run(run: RunFolder, tmp_path: Path) -> None:
    version = write_version(run, draft())
    elsewhere = version.path.rename(tmp_path / "pulled")
    found = open_version(elsewhere, None)
    assert found == DatasetVersion(elsewhere, version.manifest)
    assert len(list(found.rows("train"))) == 8
