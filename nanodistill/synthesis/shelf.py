"""Rows put aside on disk, in order, so that a run's memory does not grow with its rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from typing import IO, Any, Self

from nanodistill.records import Rejection, Trace

FIELDS = tuple(field.name for field in fields(Trace))


class Shelf:
    """Kept and rejected rows in a scratch file that goes away with this object."""

    def __init__(self) -> None:
        self._file: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by __exit__
            "w+", encoding="utf-8", errors="surrogatepass"
        )
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._size

    def put(self, row: Trace | Rejection) -> None:
        self._file.write(json.dumps(as_held(row), ensure_ascii=False) + "\n")
        self._size += 1

    def traces(self) -> Iterator[Trace]:
        return (as_trace(held) for held in self._lines())

    def rejections(self) -> Iterator[Rejection]:
        for held in self._lines():
            yield Rejection(as_trace(held["trace"]), held["reason"], held["detail"])

    def _lines(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        yield from map(json.loads, self._file)
        self._file.seek(0, 2)


def as_held(row: Trace | Rejection) -> dict[str, Any]:
    if isinstance(row, Rejection):
        return {"trace": as_held(row.trace), "reason": row.reason, "detail": row.detail}
    return {name: getattr(row, name) for name in FIELDS}


def as_trace(held: dict[str, Any]) -> Trace:
    lists = {name: tuple(held[name]) for name in ("seed_ids", "request_keys")}
    return Trace(**{**held, **lists})
