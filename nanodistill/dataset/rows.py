"""The columns of a version's parquet files, and the fingerprint of its rows.

One explicit schema for every file, so that a column that happens to be all null in one split keeps
its type, here and in `datasets`. Rejected rows have two more columns, `reason` and `detail`. Rows
are written and read a few thousand at a time, so memory does not grow with their number.

The fingerprint is the same exactly where the rows are the same: the SHA-256 of a tag, a zero byte,
and one line for each row of train, valid and test, the canonical JSON of [id, split, messages,
source, seed_ids, cell, confidence] and a newline. Rows are ordered by id, then by split, then by
the line itself (a test set may hold a row twice). Teacher, request keys, dates, names, paths and
rejected rows are not part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from nanodistill.errors import CorruptFileError
from nanodistill.thinking import Format
from nanodistill.types import Message, Split, Trace, canonical_json

Row = dict[str, Any]

SPLITS: tuple[Split, ...] = get_args(Split)
ROWS_IN_A_GROUP = 5000
ROWS_READ_AT_ONCE = 1000

DEFAULT = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("input", pa.string()),
        ("thinking", pa.string()),
        ("output", pa.string()),
        ("source", pa.string()),
        ("seed_ids", pa.list_(pa.string())),
        ("cell", pa.string()),
        ("confidence", pa.float64()),
        ("teacher", pa.string()),
        ("request_keys", pa.list_(pa.string())),
        ("thinking_from", pa.string()),
    ]
)
REJECTED = DEFAULT.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))


def messages_of(trace: Trace, instruction: str, shape: Format) -> list[Message]:
    """A row as a chat: instruction, input, and thinking and output in the thinking format."""
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": trace.input},
        {"role": "assistant", "content": shape.format(trace.thinking, trace.output)},
    ]


def row_of(trace: Trace, messages: list[Message]) -> Row:
    return {
        "id": trace.id,
        "messages": messages,
        "input": trace.input,
        "thinking": trace.thinking,
        "output": trace.output,
        "source": trace.source,
        "seed_ids": list(trace.seed_ids),
        "cell": trace.cell,
        "confidence": None if trace.confidence is None else float(trace.confidence),
        "teacher": trace.teacher,
        "request_keys": list(trace.request_keys),
        "thinking_from": trace.thinking_from,
    }


def trace_of(row: Row) -> Trace:
    return Trace(
        input=row["input"],
        output=row["output"],
        source=row["source"],
        thinking=row["thinking"],
        seed_ids=tuple(row["seed_ids"]),
        cell=row["cell"],
        confidence=row["confidence"],
        teacher=row["teacher"],
        request_keys=tuple(row["request_keys"]),
        thinking_from=row["thinking_from"],
    )


def split_file(split: str) -> str:
    return f"data/{split}-00000-of-00001.parquet"


REJECTED_FILE = "rejected/rejected-00000-of-00001.parquet"


def write_rows(path: Path, rows: Iterable[Row], schema: pa.Schema) -> int:
    """Write rows in the order given; with none, no file. Returns how many there were."""
    remaining = iter(rows)
    group = list(islice(remaining, ROWS_IN_A_GROUP))
    written = 0
    if not group:
        return written
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        while group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            written += len(group)
            group = list(islice(remaining, ROWS_IN_A_GROUP))
    return written


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one of our files, in order.

    Raises:
        CorruptFileError: it can't be read as what we wrote.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.schema_arrow.names not in (DEFAULT.names, REJECTED.names):
                raise CorruptFileError(f"{path} has other columns than those of a dataset version.")
            for batch in file.iter_batches(batch_size=ROWS_READ_AT_ONCE):
                yield from batch.to_pylist()
    except FileNotFoundError as missing:
        raise CorruptFileError(f"{path} is missing.") from missing
    except (pa.ArrowException, OSError, UnicodeDecodeError) as broken:
        raise CorruptFileError(f"{path} can't be read: {broken}.") from broken


TAG = b"nanodistill.dataset.v1"
HASHED = ("messages", "source", "seed_ids", "cell", "confidence")


def row_line(row: Mapping[str, Any], split: str) -> str:
    """What the fingerprint sees of a row. Lines sort as their rows do."""
    return canonical_json([row["id"], split, *(row[name] for name in HASHED)])


def fingerprint_of(sorted_lines: Iterable[str]) -> str:
    """The fingerprint of rows whose lines come in order."""
    digest = hashlib.sha256(TAG + b"\0")
    for line in sorted_lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
