"""Reading a file of rows: JSONL, JSON, CSV or parquet, told apart by suffix.

Each row comes with its place, as a person would look for it: `seeds.jsonl:12` for the 12th line
(blank ones counted; in a CSV file the line on which the row begins), `seeds.json: row 3` where rows
are not lines. A row that can't be read becomes a `Problem` in its place, so that all of them are
named at once. Nothing is guessed: bytes that are not UTF-8, two values under one key, or a quote
that never ends are problems, not repaired.

What the fields mean is for `seeds` and `dataset.edit` to say.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.errors import DataError, Problem
from nanodistill.jsontext import plain_number
from nanodistill.text_files import LONE_SURROGATE

BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PARQUET_ROWS_AT_ONCE = 1000
WHITE = re.compile(r"\s*")
SEPARATOR_LINE = re.compile(r'"?sep=(.|\\t)"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Record:
    """A row's fields and where it stands."""

    where: str
    fields: dict[str, Any]


RecordOrProblem = Record | Problem


def read_records(path: Path) -> Iterator[RecordOrProblem]:
    """The rows of a file in order, a problem standing for each that can't be read.

    Raises:
        DataError: there is no such file, or as a whole it is not what its suffix says.
    """
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise unreadable(path, "is a folder; name a file")
    if not path.exists():
        raise unreadable(path, "there is no such file")
    if reader is None and (other := _other_kind(path)):
        raise unreadable(path, other)
    if reader is None:
        known = ", ".join(READERS)
        raise unreadable(path, f"'{path.suffix}' is no known form of rows: {known}")
    if other := _other_kind(path):
        raise unreadable(path, other)
    try:
        yield from reader(path)
    except OSError as failed:
        raise unreadable(path, f"can't be read: {failed.strerror or failed}") from failed


MAGIC = (
    (b"PK\x03\x04", "is an Excel workbook or another zip archive; save its rows as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook; save its rows as CSV (UTF-8)"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"%PDF", "is a PDF"),
)


def _other_kind(path: Path) -> str | None:
    """What a file is by its first bytes, where that is no file of rows."""
    with path.open("rb") as file:
        begin = file.read(8)
    if begin.startswith(b"PAR1") and path.suffix.lower() != ".parquet":
        return "is a parquet file; rename it to .parquet"
    return next((what for magic, what in MAGIC if begin.startswith(magic)), None)


def unreadable(path: Path, what: str) -> DataError:
    return DataError("The rows can't be read:", [Problem(str(path), what)])


def read_jsonl(path: Path) -> Iterator[RecordOrProblem]:
    """One JSON object a line."""
    if _is_one_value(path):
        yield from _read_values(path)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            content = line.rstrip(b"\r\n").removeprefix(BOM if number == 1 else b"")
            if content.strip():
                yield _parsed_line(content, where)


def _is_one_value(path: Path) -> bool:
    """Whether a value begins in the first line that does not end there, or is an array.

    So are files that were printed to be read, and arrays that are called .jsonl.
    """
    with path.open("rb") as file:
        first = next((line for line in file if line.removeprefix(BOM).strip()), b"")
    if first.startswith(UTF_16):
        return True
    begin = first.removeprefix(BOM).strip()
    return begin in (b"{", b"[") or begin.startswith((b"[{", b"[ {"))


def _read_values(path: Path) -> Iterator[RecordOrProblem]:
    """JSON values one after the other, each over as many lines as it takes."""
    text = _decoded(path)
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    at = 0
    while at < len(text):
        begin = WHITE.match(text, at)
        at = begin.end() if begin else at
        if at == len(text):
            return
        where = f"{path}:{text.count(chr(10), 0, at) + 1}"
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as bad:
            yield Problem(f"{path}:{bad.lineno}", f"is no valid JSON: {bad.msg}")
            return
        except (ValueError, RecursionError) as bad:
            yield Problem(where, f"is no valid JSON: {bad}")
            return
        if isinstance(value, list):
            for number, row in enumerate(value, start=1):
                yield _record(row, f"{where}: row {number}")
        else:
            yield _record(value, where)


def _parsed_line(content: bytes, where: str) -> RecordOrProblem:
    try:
        return _record(parse_json(content.decode()), where)
    except UnicodeDecodeError as bad:
        return Problem(where, _not_utf8(bad))
    except json.JSONDecodeError as bad:
        return Problem(where, f"is no valid JSON: {bad.msg} at column {bad.colno}")
    except (ValueError, RecursionError) as bad:
        return Problem(where, f"is no valid JSON: {bad}")


def read_json(path: Path) -> Iterator[RecordOrProblem]:
    """One JSON array of objects."""
    text = _decoded(path)
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as bad:
        lines = bad.msg == "Extra data"
        hint = "; one object a line is JSON lines: rename it to .jsonl" if lines else ""
        where = Problem(f"{path}:{bad.lineno}", f"{bad.msg} at column {bad.colno}{hint}")
        raise DataError(f"{path} is no valid JSON:", [where]) from bad
    except (ValueError, RecursionError) as bad:
        raise unreadable(path, f"is no valid JSON: {bad}") from bad
    if isinstance(rows, dict):
        rows = _rows_inside(rows, path)
    if not isinstance(rows, list):
        raise unreadable(path, f"should hold a JSON array of rows, not {json_name(rows)}")
    for number, row in enumerate(rows, start=1):
        yield _record(row, f"{path}: row {number}")


def _rows_inside(held: dict[str, Any], path: Path) -> list[Any]:
    """The rows of an object that wraps one list of them, or is one row itself."""
    lists = [name for name, item in held.items() if isinstance(item, list)]
    wrapped = [name for name in lists if all(isinstance(row, dict) for row in held[name])]
    if len(wrapped) == 1 and wrapped[0] not in ("messages", "conversations"):
        rows: list[Any] = held[wrapped[0]]
        return rows
    columns = [item for item in held.values() if isinstance(item, dict | list)]
    if len(columns) > 1 and len(columns) == len(held):
        hint = "pandas writes rows with to_json(path, orient='records')"
        raise unreadable(path, f"holds columns, not rows; {hint}")
    return [held]


def _record(row: Any, where: str) -> RecordOrProblem:
    if isinstance(row, dict):
        return Record(where, row)
    return Problem(where, f"should be a JSON object with named fields, not {json_name(row)}")


def parse_json(text: str) -> Any:
    """`json.loads`, strict: no two values under one key, no NaN.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for key, value in pairs:
        if key in held:
            raise ValueError(f"'{key}' is there twice")
        held[key] = value
    return held


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def json_name(value: Any) -> str:
    """What a JSON value is called: "a number", "text", …"""
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def read_csv(path: Path) -> Iterator[RecordOrProblem]:
    """Comma-separated values in UTF-8 with a line of column names."""
    with _long_fields():
        text, mark, skipped = _separator(_decoded(path), path)
        lines = io.StringIO("\n" * skipped + text, newline="")
        rows = csv.reader(lines, strict=True, delimiter=mark)
        for _ in range(skipped):
            next(rows, None)
        try:
            yield from _csv_records(rows, path)
        except csv.Error as bad:
            # After this the reader no longer knows where a row begins.
            yield Problem(f"{path}:{rows.line_num}", f"is no valid CSV: {bad}")


def _separator(text: str, path: Path) -> tuple[str, str, int]:
    """The rows' text, what separates its columns, and how many lines before it were left out.

    Excel writes `sep=;` as a first line, semicolons where the comma is for decimals, and tabs.
    """
    first, _, rest = text.partition("\n")
    if named := SEPARATOR_LINE.fullmatch(first.strip()):
        return rest, named[1].replace("\\t", "\t"), 1
    if path.suffix.lower() == ".tsv":
        return text, "\t", 0
    header = first.split('"')[0]
    marks = {mark: header.count(mark) for mark in ",;\t"}
    return text, max(marks, key=lambda mark: marks[mark]) if any(marks.values()) else ",", 0


def _csv_records(rows: Any, path: Path) -> Iterator[RecordOrProblem]:
    names: list[str] = [name.strip() for name in next(rows, [])]
    empty_at_end = len(names) - len(_trimmed(names))
    names = _trimmed(names)
    if problem := _bad_header(names):
        yield Problem(f"{path}:1", problem)
        return
    begin = rows.line_num + 1
    for values in rows:
        where = f"{path}:{begin}"
        begin = rows.line_num + 1
        if not any(values):
            continue
        if empty_at_end and len(values) > len(names) and not any(values[len(names) :]):
            values = values[: len(names)]
        if len(values) != len(names):
            yield Problem(where, f"has {len(values)} fields, the header {len(names)}")
        else:
            yield Record(where, dict(zip(names, values, strict=True)))


def _bad_header(names: list[str]) -> str | None:
    if not any(name.strip() for name in names):
        return "should hold the names of the columns"
    if twice := sorted({name for name in names if names.count(name) > 1}):
        return f"column '{twice[0]}' is there twice"
    return None


def _trimmed(names: list[str]) -> list[str]:
    """Column names without the empty ones at the end, which trailing separators make."""
    return names[: max((n for n, name in enumerate(names, start=1) if name), default=0)]


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB a field, which is global."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _decoded(path: Path) -> str:
    content = path.read_bytes().removeprefix(BOM)
    if content.startswith(UTF_16):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as bad:
            raise unreadable(path, "is no whole UTF-16; save it as UTF-8") from bad
    try:
        return content.decode()
    except UnicodeDecodeError as bad:
        line = content.count(b"\n", 0, bad.start) + 1
        raise DataError(
            "The rows can't be read:", [Problem(f"{path}:{line}", _not_utf8(bad))]
        ) from bad


def _not_utf8(bad: UnicodeDecodeError) -> str:
    return f"is not UTF-8: byte 0x{bad.object[bad.start]:02x}; save the file as UTF-8"


def read_parquet(path: Path) -> Iterator[RecordOrProblem]:
    """Rows of a parquet file, as Python values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise unreadable(path, f"column '{twice[0]}' is there twice")
            labels = _class_labels(file.schema_arrow.metadata)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}: row {number}", with_label_names(row, labels))
    except pa.ArrowException as bad:
        raise unreadable(path, f"is no readable parquet file: {bad}") from bad


def _class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of labels that `datasets` wrote into a parquet file, by column."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            found[column] = list(inner["names"])
    return found


def with_label_names(row: dict[str, Any], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with its labels by name: `datasets` keeps numbers, -1 where there is none."""
    return row | {column: _named(row[column], labels[column]) for column in labels if column in row}


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def as_text(value: Any) -> str:
    """Text as it is; anything else as JSON on one line, keys in their order, not escaped.

    Raises:
        ValueError: it has no JSON (a date, bytes, NaN).
    """
    if isinstance(value, str):
        return str.__str__(value)  # less what a subclass adds: an enum, NumPy's text
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain_number)
    except (TypeError, ValueError, RecursionError) as bad:
        raise ValueError(f"can't be written as text ({bad})") from bad


def invalid_text(text: str) -> str | None:
    """Why a text can't be a row's input or output, if it can't."""
    if not text.strip():
        return "is empty"
    if "\0" in text:
        return f"holds a NUL character at position {text.index(chr(0)) + 1}"
    if half := LONE_SURROGATE.search(text):
        return f"holds half a character (\\u{ord(half[0]):04x}) at position {half.start() + 1}"
    return None


READERS: dict[str, Callable[[Path], Iterator[RecordOrProblem]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}


HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(@(?P<revision>[\w./-]+))?\Z")


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hub, at a revision or at its newest."""

    repo: str
    revision: str | None = None

    @classmethod
    def looks_like(cls, text: str) -> bool:
        return bool(HUB_ID.match(text)) and not text.lower().endswith(tuple(READERS))

    @classmethod
    def parse(cls, text: str) -> HubDataset:
        found = HUB_ID.match(text)
        if found is None:
            raise ValueError(f"{text!r} is no Hub id")
        return cls(found["repo"], found["revision"])

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo
