"""Rows that a user brings, in every form, and every way in which they can be wrong."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanodistill.errors import DataError
from nanodistill.events import Event, Notice
from nanodistill.seeds import Row, describe_input, load_rows
from nanodistill.types import Seed

PAIRS = [("a cat", "animal"), ("an oak", "plant")]
ROWS: list[dict[str, Any]] = [{"input": text, "output": label} for text, label in PAIRS]

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file in the working directory, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def written(name: str, content: str | bytes) -> Path:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        return Path(name)

    return written


def pairs(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.input, row.output) for row in rows]


def problems(source: Any, what: Any = "seed") -> list[str]:
    with pytest.raises(DataError) as caught:
        load_rows(source, what=what)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def notices(source: Any, what: Any = "seed") -> list[str]:
    heard: list[Event] = []
    load_rows(source, what=what, on_event=heard.append)
    return [event.text for event in heard if isinstance(event, Notice)]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(path: str, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return Path(path)


def test_every_form_gives_the_same_rows(write: Write) -> None:
    import datasets

    sources = [
        ROWS,
        write("a.jsonl", lines(*ROWS)),
        "a.jsonl",
        write("a.json", json.dumps(ROWS)),
        write("a.csv", "input,output\na cat,animal\nan oak,plant\n"),
        parquet("a.parquet", ROWS),
        datasets.Dataset.from_list(ROWS),
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
        datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    ]
    hashes = set()
    for source in sources:
        rows = load_rows(source, what="seed")
        assert pairs(rows) == PAIRS
        hashes.add(describe_input(source, rows).sha256)
    assert len(hashes) == 1


def test_a_row_is_a_seed() -> None:
    (row, _) = load_rows(ROWS, what="seed")
    assert isinstance(row, Seed)
    assert row.id == Seed("a cat", "animal").id


def test_blank_thinking_is_mentioned_with_its_place() -> None:
    given = [ROWS[0] | {"thinking": " \n"}, ROWS[1] | {"thinking": ""}]
    told: list[Any] = []
    rows = load_rows(given, what="training_data", on_event=told.append)
    assert [row.thinking for row in rows] == [None, None]
    assert [event.text.endswith(": row 1") for event in told] == [True]


def test_thinking_comes_along_where_there_is_one() -> None:
    given = [ROWS[0] | {"thinking": "It purrs."}, ROWS[1] | {"thinking": ""}]
    assert [row.thinking for row in load_rows(given, what="training_data")] == ["It purrs.", None]


def test_messages(write: Write) -> None:
    chat = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "<b>animal"}]
    parts = [{"type": "text", "text": "an "}, {"type": "text", "text": "oak"}]
    rows: list[dict[str, Any]] = [
        {"messages": chat},
        {
            "messages": [
                {"role": "system", "content": "Say."},
                {"role": "user", "content": parts},
                {"role": "assistant", "content": "plant"},
            ]
        },
    ]
    for source in (rows, write("a.jsonl", lines(*rows))):
        loaded = load_rows(source, what="training_data")
        assert pairs(loaded) == [("a cat", "<b>animal"), ("an oak", "plant")]
        assert all(row.is_chat for row in loaded)


def test_input_and_output_come_before_messages() -> None:
    """A dataset version's rows have both, and can be training data again."""
    (row,) = load_rows([ROWS[0] | {"messages": [], "id": "x", "source": "seed"}], what="test")
    assert (row.input, row.output, row.is_chat) == ("a cat", "animal", False)


def test_values_that_are_no_text_become_json_text() -> None:
    values: list[Any] = [{"b": 1, "a": "é"}, [1, "x"], 3, 2.50, True]
    rows = load_rows([{"input": str(v), "output": v} for v in values], what="seed")
    assert [row.output for row in rows] == ['{"b": 1, "a": "é"}', '[1, "x"]', "3", "2.5", "true"]


def test_places_are_lines_where_there_are_lines(write: Write) -> None:
    jsonl = write(
        "a.jsonl", b"\xef\xbb\xbf" + lines(ROWS[0]).encode() + b"\r\n \n" + lines(ROWS[1]).encode()
    )
    assert [row.where for row in load_rows(jsonl, what="seed")] == ["a.jsonl:1", "a.jsonl:4"]
    csv = write("a.csv", '\ufeffinput,output\r\n"a\r\ncat",animal\r\n\r\n"an ""oak""",plant\r\n')
    rows = load_rows(csv, what="seed")
    assert [row.where for row in rows] == ["a.csv:2", "a.csv:5"]
    assert pairs(rows) == [("a\r\ncat", "animal"), ('an "oak"', "plant")]
    listed = write("a.json", json.dumps(ROWS, indent=1))
    assert [row.where for row in load_rows(listed, what="seed")] == [
        "a.json: row 1",
        "a.json: row 2",
    ]


def test_line_separators_inside_texts_do_not_count_as_lines(write: Write) -> None:
    rows = [{"input": "a\u2028b\x85c", "output": "x"}, ROWS[0]]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    loaded = load_rows(write("a.jsonl", content), what="seed")
    assert (loaded[0].input, loaded[1].where) == ("a\u2028b\x85c", "a.jsonl:2")


def test_every_bad_line_is_named_at_once(write: Write) -> None:
    source = write(
        "a.jsonl",
        b"\n".join(
            [
                b'{"input": "a", "output": "x"}',
                b'{"input": "b"',
                b'{"input": "c", "outptu": "x"}',
                b'["d", "x"]',
                b'{"input": "", "output": "x"}',
                b'{"input": "\xe9", "output": "x"}',
                b'{"input": "e\\u0000f", "output": "x"}',
                b'{"input": "e\\ud83d", "output": "x"}',
                b'{"input": "g", "input": "h", "output": "x"}',
                b'{"input": "i", "output": NaN}',
                b'{"input": "j", "output": null, "label": "x"}',
                b'{"messages": [{"role": "user", "content": "k"}]}',
                b'{"input": "l", "output": "x", "thinking": "\\u0000"}',
                b"{}",
            ]
        ),
    )
    assert problems(source) == [
        "a.jsonl:2: is no valid JSON: Expecting ',' delimiter at column 14",
        "a.jsonl:3: output: is missing, did you mean 'outptu'?",
        "a.jsonl:4: should be a JSON object with named fields, not an array",
        "a.jsonl:5: input: is empty",
        "a.jsonl:6: is not UTF-8: byte 0xe9; save the file as UTF-8",
        "a.jsonl:7: input: holds a NUL character at position 2",
        "a.jsonl:8: input: holds half a character (\\ud83d) at position 2",
        "a.jsonl:9: is no valid JSON: 'input' is there twice",
        "a.jsonl:10: is no valid JSON: NaN is no JSON number",
        "a.jsonl:11: output: is missing, did you mean 'label'? Rename it to 'output'",
        "a.jsonl:12: messages: should be a user's and an assistant's, after a system message "
        "or not; are user",
        "a.jsonl:13: thinking: holds a NUL character at position 1",
        "a.jsonl:14: input: is missing",
        "a.jsonl:14: output: is missing",
    ]


def test_many_problems_are_counted_and_twenty_shown(write: Write) -> None:
    source = write("a.jsonl", '{"input": "a", "output": "x"}\n' + '{"a\n' * 50)
    with pytest.raises(DataError) as caught:
        load_rows(source, what="seed")
    assert len(caught.value.problems) == 50
    message = str(caught.value).splitlines()
    assert message[0] == "a.jsonl can't be used as it is:"
    assert message[-1] == "  and 30 more"
    assert len(message) == 22


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", '{"rows": []}', "a.json: has no rows"),
        ("a.json", '{"input": ["a"], "output": ["b"]}', "a.json: holds columns, not rows"),
        ("a.json", "3", "a.json: should hold a JSON array of rows, not a number"),
        ("a.csv", "PK\x03\x04", "a.csv: is an Excel workbook"),
        ("a.xlsx", "PK\x03\x04", "a.xlsx: is an Excel workbook"),
        ("a.jsonl", b"\x1f\x8b\x08", "a.jsonl: is compressed with gzip"),
        ("a.json", '[{"a": 1},\n]', "a.json:2: "),
        ("a.json", '{"a": 1}\n{"a": 2}', "a.json:2: Extra data at column 1; one object a line"),
        ("a.json", "[" * 100_000, "a.json: is no valid JSON"),
        ("a.json", b'[\n"\xff"]', "a.json:2: is not UTF-8: byte 0xff"),
        ("a.jsonl", b"\xff\xfea", "a.jsonl: is no whole UTF-16"),
        ("a.csv", b"input,output\na,b\n\xe9,b\n", "a.csv:3: is not UTF-8: byte 0xe9"),
        ("a.csv", "input,output,input\na,b,c\n", "a.csv:1: column 'input' is there twice"),
        ("a.csv", "", "a.csv:1: should hold the names of the columns"),
        ("a.csv", 'input,output\na,b\n"c"d,e\n', "a.csv:3: is no valid CSV"),
        ("a.csv", "input,output\na,b,c\n", "a.csv:2: has 3 fields, the header 2"),
        ("a.csv", "question,output\na,b\n", "a.csv:2: input: is missing, did you mean 'question'"),
        ("a.csv", "input,output\n", "a.csv: has no rows"),
        ("a.jsonl", "\n\n", "a.jsonl: has no rows"),
        ("a.parquet", "PAR1", "a.parquet: is no readable parquet file"),
        ("a.txt", "x", "a.txt: '.txt' is no known form of rows: .jsonl, .ndjson, .json, .csv"),
    ],
)
def test_a_file_that_is_not_what_it_says(
    write: Write, name: str, content: str | bytes, told: str
) -> None:
    (problem,) = problems(write(name, content))
    assert told in problem


def test_a_quote_that_never_ends_is_named_where_its_row_is(write: Write) -> None:
    told = problems(write("a.csv", 'input,output\na,b\n"c,d\ne,f\n'))
    assert told == ["a.csv:4: is no valid CSV: unexpected end of data"]


def test_long_fields_of_a_csv_file_are_read(write: Write) -> None:
    (row,) = load_rows(write("a.csv", f"input,output\n{'x' * 300_000},b\n"), what="seed")
    assert len(row.input) == 300_000


def test_values_without_a_text_are_named(write: Write) -> None:
    rows = [{"input": "a", "output": datetime.date(2024, 1, 1)}]
    assert "row 1: output: can't be written as text" in problems(rows)[0]
    assert problems(parquet("a.parquet", rows))[0].startswith("a.parquet: row 1: output: can't")


def test_rows_of_a_list_are_dicts() -> None:
    assert problems(["a", {"input": "b", "output": "x"}, ("c", "x")]) == [
        "row 1: should be a dict with named fields, is 'a'",
        "row 3: should be a dict with named fields, is ('c', 'x')",
    ]


def test_something_else_is_no_source() -> None:
    assert problems(3)[0].startswith("seed: should be a list of rows, a file's path")


@pytest.mark.parametrize("name", ["missing.jsonl", "missing", "./owner/missing", "folder"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str, write: Write) -> None:
    Path("folder").mkdir()
    (problem,) = problems(name)
    assert problem.endswith("is a folder; name a file" if name == "folder" else "no such file")


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("text", "messages: should be a list of objects with role and content, not text"),
        ([{"from": "human", "value": "x"}], "are user"),
        ([{"role": "user", "content": "a"}] * 2, "are user, user"),
        ([], "are none"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
            "messages: assistant: is empty",
        ),
    ],
)
def test_messages_that_are_no_row(messages: Any, told: str) -> None:
    (problem,) = problems([{"messages": messages}], "training_data")
    assert told in problem


def test_two_seeds_that_contradict_each_other(write: Write) -> None:
    source = write("a.jsonl", lines(*ROWS, {"input": " a  cat", "output": "plant"}))
    assert problems(source) == [
        "a.jsonl:3: output: has the same input as a.jsonl:1 and another output"
    ]
    assert len(load_rows(source, what="test")) == 3
    assert len(load_rows(source, what="training_data")) == 3


def test_a_repeated_seed_counts_once_and_is_mentioned(write: Write) -> None:
    source = write("a.jsonl", lines(*ROWS, ROWS[0]))
    assert pairs(load_rows(source, what="seed")) == PAIRS
    assert notices(source) == ["Seeds that repeat an earlier one count once: a.jsonl:3."]
    assert len(load_rows(source, what="test")) == 3
    assert notices(source, "test") == []


def test_columns_that_are_not_read_are_mentioned() -> None:
    rows = [ROWS[0] | {"thinkng": "x", "id": 1}, ROWS[1] | {"lang": "en"}]
    assert notices(rows) == [
        "`seed`: columns that are not read: 'thinkng', did you mean 'thinking'?, 'lang'"
    ]


def test_of_several_splits_the_meant_one_is_taken() -> None:
    import datasets

    first, second = (datasets.Dataset.from_list([row]) for row in ROWS)
    both = datasets.DatasetDict(train=first, test=second)
    assert pairs(load_rows(both, what="seed")) == PAIRS[:1]
    assert pairs(load_rows(both, what="test")) == PAIRS[1:]
    assert notices(both) == ["`seed`: taking split train of train, test."]
    odd = datasets.DatasetDict(a=first, b=second)
    assert problems(odd) == ["`seed`: has the splits a, b, and none called train"]


def test_what_a_manifest_says_of_an_input(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write("a.jsonl", lines(*ROWS))
    rows = load_rows(path, what="seed")
    facts = describe_input(path, rows)
    assert (facts.kind, facts.name, facts.rows) == ("file", "a.jsonl", 2)
    assert describe_input(ROWS, rows).name is None
    assert describe_input("owner/rows@v1", rows).name == "owner/rows@v1"
    assert describe_input(ROWS, rows[:1]).sha256 != facts.sha256


OFFLINE = """
import sys, time
from nanodistill.errors import DataError
from nanodistill.seeds import load_rows
try:
    load_rows("owner/missing", what="seed")
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("setting", ["HF_ENDPOINT", "HF_HUB_OFFLINE"])
def test_the_hub_out_of_reach_is_said_at_once(setting: str, tmp_path: Path) -> None:
    """In a process of its own: the library reads its settings once. Port 9 has no server."""
    values = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parent.parent
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env={
            **os.environ,
            "HF_HOME": str(tmp_path),
            "PYTHONPATH": str(root),
            setting: values[setting],
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "owner/missing: " in done.stdout
    assert "HF_TOKEN and HF_ENDPOINT" in done.stdout
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 15


ONE = [{"input": "a, b", "output": "x"}, {"input": "c", "output": "007"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'sep=;\n"input";output\n"a, b";x\nc;007\n'),
        ("a.csv", 'input;output\n"a, b";x\nc;007\n'),
        ("a.csv", 'input\toutput\n"a, b"\tx\nc\t007\n'),
        ("a.tsv", "input\toutput\na, b\tx\nc\t007\n"),
        ("a.csv", 'input,output,,\n"a, b",x,,\nc,007,,\n,,,\n'),
        ("a.csv", ' input , output \r"a, b",x\rc,007\r'),
        ("a.csv", 'input\toutput\r\n"a, b"\tx\r\nc\t007\r\n'.encode("utf-16")),
        ("a.json", json.dumps({"data": ONE})),
        ("a.jsonl", json.dumps(ONE)),
        ("a.jsonl", json.dumps(ONE, indent=2)),
        ("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ONE)),
    ],
)
def test_what_spreadsheets_and_exports_write(write: Write, name: str, content: str | bytes) -> None:
    rows = load_rows(write(name, content), what="seed")
    assert [{"input": row.input, "output": row.output} for row in rows] == ONE


def chat(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": said} for role, said in turns]} | more


SAID_IN_PARTS = [{"type": "output_text", "text": "b"}]
CACHED = {"type": "text", "text": "a", "cache_control": {}}


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "output": "b"},
        {"instruction": "a", "input": "", "output": "b"},
        chat(("user", [{"type": "input_text", "text": "a"}]), ("assistant", SAID_IN_PARTS)),
        chat(("user", [CACHED]), ("assistant", "b")),
    ],
)
def test_other_forms_of_one_question_and_one_answer(row: dict[str, Any]) -> None:
    (read,) = load_rows([row], what="training_data")
    assert (read.input, read.output) == ("a", "b")


def test_an_instruction_that_differs_is_part_of_the_input() -> None:
    rows = [{"instruction": f"do {n}", "input": "x" * n, "output": "y"} for n in range(2)]
    assert [row.input for row in load_rows(rows, what="training_data")] == ["do 0", "do 1\n\nx"]
    same = [{"instruction": "do", "input": f"x{n}", "output": "y"} for n in range(2)]
    assert [row.input for row in load_rows(same, what="training_data")] == ["x0", "x1"]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
ASKED = {"role": "user", "content": "a"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (chat(("user", [IMAGE]), ("assistant", "b")), "messages: user: holds a part of type 'im"),
        (chat(("user", []), ("assistant", "b")), "messages: user: is empty"),
        (chat(*[("user", "a"), ("assistant", "b")] * 2), "messages: has 2 turns"),
        ({"messages": [ASKED, CALL]}, "messages: holds a tool call"),
        ({"messages": [ASKED, {"role": "assistant", "content": "b", "weight": 0}]}, "weight 0"),
    ],
)
def test_what_of_chats_is_no_row_is_named(row: dict[str, Any], told: str) -> None:
    (problem,) = problems([row], "training_data")
    assert told in problem


def test_what_all_rows_share_is_told_once() -> None:
    rows = [chat(*[("user", f"{n}"), ("assistant", "b")] * 2) for n in range(40)]
    (problem,) = problems(rows, "training_data")
    assert "all 40 rows" in problem


def test_system_messages_and_contradictions_are_mentioned() -> None:
    told: list[Any] = []
    rows = [chat(("system", f"s{n}"), ("user", "a"), ("assistant", f"b{n}")) for n in range(2)]
    assert len(load_rows(rows, what="training_data", on_event=told.append)) == 2
    text = "\n".join(event.text for event in told)
    assert "2 rows bring a system message" in text
    assert "1 inputs occur with more than one output" in text


def test_labels_of_datasets_come_by_name(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"input": datasets.Value("string"), "output": datasets.ClassLabel(names=["billing", "bug"])}
    )
    data = datasets.Dataset.from_dict({"input": ["a", "b"], "output": [0, 1]}, features=features)
    data.to_parquet(str(tmp_path / "a.parquet"))
    for source in (data, tmp_path / "a.parquet"):
        assert [row.output for row in load_rows(source, what="seed")] == ["billing", "bug"]


def test_a_parquet_column_that_is_there_twice(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array(["a"])
    table = pa.Table.from_arrays([column] * 3, names=["input", "output", "output"])
    pq.write_table(table, tmp_path / "a.parquet")
    (problem,) = problems(tmp_path / "a.parquet")
    assert "column 'output' is there twice" in problem


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_blanks_at_the_ends_of_an_output_stay(write: Write, name: str) -> None:
    output = "  def f():\n    return 1\n\n"
    content = {
        "a.jsonl": json.dumps({"input": "a", "output": output}),
        "a.json": json.dumps([{"input": "a", "output": output}]),
        "a.csv": f'input,output\na,"{output}"\n',
    }
    (row,) = load_rows(write(name, content[name]), what="seed")
    assert row.output == output
