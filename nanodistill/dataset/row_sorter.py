"""Sorts the rows of a version by id, however many, without holding them in memory.

Rows arrive in the order in which they were made; the fingerprint and the files want them by id. A
temporary SQLite file beside the version sorts them and is deleted with it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from nanodistill.dataset.rows import SPLITS, Row, row_line

REST = ("input", "thinking", "output", "teacher", "request_keys", "thinking_from")
SCRATCH = """
pragma journal_mode = off;
pragma synchronous = off;
pragma cache_size = -16000;
create table kept (id text, split text, line text, rest text);
create table rejected (id text, reason text, row text);
begin;
"""


class RowSorter:
    """Rows in, the same rows in order out."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.executescript(SCRATCH)

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Take the rows of train, valid and test, each with its split. Once."""
        self._db.executemany("insert into kept values (?, ?, ?, ?)", map(_packed, rows))
        self._db.execute("create index by_id on kept (id, split)")
        self._db.execute("create index by_split on kept (split, id)")

    def add_rejected(self, rows: Iterable[Row]) -> None:
        packed = ((row["id"], row["reason"], json.dumps(row)) for row in rows)
        self._db.executemany("insert into rejected values (?, ?, ?)", packed)

    def check_ids(self) -> None:
        """See that an id of train or valid occurs nowhere else.

        Raises:
            ValueError: one does.
        """
        twice = "group by id having count(*) > 1 and sum(split != 'test') > 0 limit 1"
        found = self._db.execute(f"select id, group_concat(split) from kept {twice}").fetchone()
        if found:
            raise ValueError(f"row {found[0]} is there more than once, in {found[1]}")

    def count_by_split(self) -> dict[str, int]:
        query = "select split, count(*) from kept group by split"
        counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
        return counts | dict(self._db.execute(query).fetchall())

    def count_rejected(self) -> dict[str, int]:
        query = "select reason, count(*) from rejected group by reason order by 2 desc, 1"
        return dict(self._db.execute(query).fetchall())

    def lines(self) -> Iterator[str]:
        """What the fingerprint sees, in its order."""
        return (line for (line,) in self._db.execute(f"select line from kept {ORDER}"))

    def rows(self, *splits: str) -> Iterator[Row]:
        """The rows of these splits in order of id."""
        marks = ", ".join("?" * len(splits))
        query = f"select line, rest from kept where split in ({marks}) {ORDER}"
        return (_unpacked(line, rest) for line, rest in self._db.execute(query, splits))

    def rejected(self) -> Iterator[Row]:
        query = "select row from rejected order by id, row"
        return (json.loads(row) for (row,) in self._db.execute(query))


ORDER = "order by id, split, line"


@contextmanager
def spool_in(folder: Path) -> Iterator[RowSorter]:
    path = folder / "spool.sqlite"
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield RowSorter(connection)
    finally:
        path.unlink(missing_ok=True)


def _packed(row_and_split: tuple[str, Row]) -> tuple[str, str, str, str]:
    split, row = row_and_split
    rest = json.dumps([row[name] for name in REST])
    return row["id"], split, row_line(row, split), rest


def _unpacked(line: str, rest: str) -> Row:
    id, _, messages, source, seed_ids, cell, confidence = json.loads(line)
    held: dict[str, Any] = dict(zip(REST, json.loads(rest), strict=True))
    return held | {
        "id": id,
        "messages": messages,
        "source": source,
        "seed_ids": seed_ids,
        "cell": cell,
        "confidence": confidence,
    }
