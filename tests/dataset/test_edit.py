"""Mending by hand: out, changed, back as a child."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from dataset.drafts import Placed, draft, placed, trace
from nanodistill.dataset import (
    DatasetVersion,
    diff,
    export_for_edit,
    open_version,
    read_edit,
    verify,
    write_version,
)
from nanodistill.errors import DataError, InputError
from nanodistill.run_dir import RunFolder
from nanodistill.types import Trace

Lines = list[dict[str, Any]]


@pytest.fixture
def version(run: RunFolder) -> DatasetVersion:
    rows = [(split, row) for split, row in placed()]
    rows[0] = ("train", trace(0, confidence=0.8))
    return write_version(run, draft(rows, usage={"prompt_tokens": 5, "completion_tokens": 6}))


@pytest.fixture
def file(version: DatasetVersion, tmp_path: Path) -> Path:
    path = tmp_path / "mend.jsonl"
    assert export_for_edit(version, path) == 12
    return path


def mended(file: Path, mend: Callable[[Lines], Any]) -> Path:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    mend(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def line_of(lines: Lines, n: int) -> dict[str, Any]:
    return next(line for line in lines if line["input"] == f"word number {n}")


def test_the_file_is_readable_rows(file: Path) -> None:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert line_of(lines, 3) == {
        "id": trace(3).id,
        "split": "train",
        "input": "word number 3",
        "thinking": "I look at word 3.",
        "output": "plant",
    }


def test_a_file_that_is_there_is_not_overwritten(version: DatasetVersion, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(InputError, match="there already"):
        export_for_edit(version, file)
    assert file.read_bytes() == before


def test_an_untouched_file_is_an_empty_edit(
    run: RunFolder, version: DatasetVersion, file: Path
) -> None:
    assert read_edit(version, file).is_empty


def test_a_mended_file_becomes_a_child(run: RunFolder, version: DatasetVersion, file: Path) -> None:
    def mend(lines: Lines) -> None:
        line_of(lines, 0)["output"] = "plant"
        line_of(lines, 1)["thinking"] = "Looked again."
        line_of(lines, 2)["split"] = "valid"
        lines.remove(line_of(lines, 3))
        lines.remove(line_of(lines, 201))
        lines.append({"split": "train", "input": "word of mine", "output": "animal"})

    edit = read_edit(version, mended(file, mend))
    assert (edit.changed, edit.dropped, edit.added) == (3, 2, 1)
    child = write_version(run, edit.draft)
    verify(child.path)
    assert child.manifest.parents == (version.fingerprint,)
    assert child.manifest.made_by == "edit"
    assert child.manifest.requested == 11
    assert child.counts.rejected == {"dropped_by_hand": 1}
    assert (child.counts.train, child.counts.valid, child.counts.test) == (7, 3, 1)
    assert child.manifest.notes == ("Mended by hand: 3 rows changed, 2 dropped, 1 new.",)
    assert open_version(None, run) == child
    card = (child.path / "README.md").read_text()
    assert "mended by hand" in card
    assert version.fingerprint in card


def test_what_a_mended_row_keeps_and_loses(
    run: RunFolder, version: DatasetVersion, file: Path
) -> None:
    def mend(lines: Lines) -> None:
        line_of(lines, 0)["output"] = "plant"
        line_of(lines, 1)["thinking"] = None

    child = write_version(run, read_edit(version, mended(file, mend)).draft)
    rows = {row["input"]: row for row in child.rows("train")}
    old = {row["input"]: row for row in version.rows("train")}
    mine, rethought = rows["word number 0"], rows["word number 1"]
    assert mine["source"] == "user"
    assert mine["id"] == Trace("word number 0", "plant", "user").id
    assert (mine["confidence"], mine["teacher"], mine["request_keys"]) == (None, "", [])
    assert (mine["seed_ids"], mine["cell"]) == (["seed a", "seed b"], "cell 0")
    assert mine["thinking_from"] == "teacher"
    assert rethought["id"] == old["word number 1"]["id"]
    assert (rethought["thinking"], rethought["thinking_from"]) == (None, None)
    assert rethought["messages"][2]["content"] == "plant"
    assert rows["word number 2"] == old["word number 2"]


def test_the_same_edit_twice_is_one_child(
    run: RunFolder, version: DatasetVersion, file: Path
) -> None:
    mended(file, lambda lines: lines.pop(0))
    first = write_version(run, read_edit(version, file).draft)
    assert write_version(run, read_edit(version, file).draft) == first
    found = diff(version, first)
    assert len(found.went) == 1
    assert found.causes[0].what == "made by hand from"


def test_every_bad_line_is_named_at_once(version: DatasetVersion, file: Path) -> None:
    def mend(lines: Lines) -> None:
        lines[0]["output"] = " "
        lines[1]["split"] = "training"
        lines[2]["id"] = "0" * 64
        lines[3]["id"] = lines[4]["id"]
        lines[5]["label"] = "x"
        del lines[6]["input"]
        lines[7]["thinking"] = "so </thinking> it ends"
        lines[8]["thinking"] = " \n"
        lines.append({"split": "test", "input": lines[4]["input"], "output": "animal"})

    with pytest.raises(DataError) as caught:
        read_edit(version, mended(file, mend))
    told = [str(problem).removeprefix(str(file)) for problem in caught.value.problems]
    assert told == [
        ":1: output: is empty",
        ":2: split: should be one of train, valid, test",
        ":3: id: is of no row of this version; a new row has none",
        f":5: id: is that of {file}:4 too; a new row has none",
        ":6: label: is no field of a row: id, split, input, thinking, output",
        ":7: input: is missing",
        ":8: thinking: or output holds the thinking format's own marks",
        ":9: thinking: is empty",
    ]


def test_an_output_that_is_none_of_the_labels_is_refused(
    version: DatasetVersion, file: Path
) -> None:
    def mend(lines: Lines) -> None:
        lines[0]["output"] = "Plants"

    with pytest.raises(DataError, match="'Plants' is none of the labels animal, plant"):
        read_edit(version, mended(file, mend))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('{"kind": "plant"}', None),
        ('{"kind": 3}', "is not what the response model says: 3 is not of type 'string'"),
        ("plant", "is no JSON"),
    ],
)
def test_an_output_has_to_follow_the_response_model(
    run: RunFolder, tmp_path: Path, output: str, said: str | None
) -> None:
    schema = {"type": "object", "properties": {"kind": {"type": "string"}}}
    rows: list[Placed] = [("train", trace(n, output='{"kind": "animal"}')) for n in range(4)]
    facts = draft(rows, labels=None, response_schema=schema)
    version = write_version(run, facts)
    export_for_edit(version, tmp_path / "out.jsonl")

    def mend(lines: Lines) -> None:
        lines[0]["output"] = output

    file = mended(tmp_path / "out.jsonl", mend)
    if said is None:
        assert read_edit(version, file).changed == 1
    else:
        with pytest.raises(DataError, match=said):
            read_edit(version, file)


def test_a_training_row_moved_beside_a_test_row_is_refused(
    version: DatasetVersion, file: Path
) -> None:
    def mend(lines: Lines) -> None:
        lines.append({"split": "train", "input": "word number 200", "output": "plant"})

    with pytest.raises(DataError, match=r"which has the same input: test is apart"):
        read_edit(version, mended(file, mend))


def test_a_row_that_is_there_twice_is_refused(version: DatasetVersion, file: Path) -> None:
    def mend(lines: Lines) -> None:
        lines += [{"split": "train", "input": "mine", "output": "plant"}] * 2

    with pytest.raises(DataError, match=r"is the row of .*:13 once more"):
        read_edit(version, mended(file, mend))


def test_a_repeated_test_row_goes_out_and_comes_back(run: RunFolder, tmp_path: Path) -> None:
    rows = placed()
    version = write_version(run, draft([*rows, rows[-1]]))
    export_for_edit(version, tmp_path / "out.jsonl")
    assert read_edit(version, tmp_path / "out.jsonl").is_empty


def test_a_missing_file_is_said(version: DatasetVersion, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_edit(version, tmp_path / "nothing.jsonl")


def as_csv(lines: Lines, path: Path, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.DictWriter(file, list(lines[0]), delimiter=delimiter)
        rows.writeheader()
        rows.writerows(lines)


FORMS: dict[str, Callable[[Lines, Path], Any]] = {
    ".csv": as_csv,
    ".tsv": lambda lines, path: as_csv(lines, path, "\t"),
    ".json": lambda lines, path: path.write_text(json.dumps(lines)),
    ".ndjson": lambda lines, path: path.write_text("\n".join(map(json.dumps, lines))),
    ".parquet": lambda lines, path: parquet.write_table(Table.from_pylist(lines), path),
}


@pytest.mark.parametrize("suffix", FORMS)
def test_rows_come_back_in_every_form_that_rows_have(
    version: DatasetVersion, file: Path, suffix: str
) -> None:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    path = file.with_suffix(suffix)
    FORMS[suffix](lines, path)
    assert read_edit(version, path).is_empty
    new = {"id": None, "split": "train", "input": "mine", "thinking": None, "output": "plant"}
    FORMS[suffix]([*lines, new], path)
    edit = read_edit(version, path)
    assert (edit.changed, edit.dropped, edit.added) == (0, 0, 1)
    assert [row.thinking for _, row in edit.draft.rows if row.input == "mine"] == [None]


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.txt", b"{}"), ("rows", b"{}"), ("rows.csv", b"PK\x03\x04"), ("rows.jsonl", None)],
)
def test_what_is_no_file_of_rows_is_named(
    version: DatasetVersion, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_edit(version, path)


def test_what_goes_out_can_come_back(version: DatasetVersion, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="jsonl"):
        export_for_edit(version, tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


def test_white_space_at_the_ends_stays(version: DatasetVersion, file: Path) -> None:
    def mend(lines: Lines) -> None:
        lines.append({"split": "train", "input": " mine ", "thinking": " so ", "output": "plant"})
        lines[0]["thinking"] = "Looked again.\n"

    edit = read_edit(version, mended(file, mend))
    assert (edit.changed, edit.added) == (1, 1)
    assert [row.thinking for _, row in edit.draft.rows if row.input == " mine "] == [" so "]


def test_an_output_may_end_in_a_line_break(run: RunFolder, tmp_path: Path) -> None:
    version = write_version(run, draft(placed(), labels=None))
    export_for_edit(version, tmp_path / "out.jsonl")

    def mend(lines: Lines) -> None:
        lines[0]["output"] = "def f(): ...\n"

    edit = read_edit(version, mended(tmp_path / "out.jsonl", mend))
    assert "def f(): ...\n" in [row.output for _, row in edit.draft.rows]


def test_thinking_that_would_be_lost_is_named(run: RunFolder, tmp_path: Path) -> None:
    rows: list[Placed] = [("train", trace(n, thinking=None)) for n in range(4)]
    version = write_version(run, draft(rows, shape="none"))
    export_for_edit(version, tmp_path / "out.jsonl")

    def mend(lines: Lines) -> None:
        lines[1]["thinking"] = "It has leaves."

    with pytest.raises(DataError, match=r"out.jsonl:2: thinking: is kept by no row"):
        read_edit(version, mended(tmp_path / "out.jsonl", mend))
