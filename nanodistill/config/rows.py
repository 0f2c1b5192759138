"""Rows that are given in Python, in the forms in which people hold them, as lists of dicts.

A data frame (pandas, polars, Arrow), an iterator, pairs of input and output, pydantic models and
dataclasses become dicts here, once: an iterator can't be read again. Paths and the objects of
`datasets` stay what they are. What can't be a row stays too, for `nanodistill.seeds` names it with
its number, together with all else that is wrong with the rows.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidatorFunctionWrapHandler
from pydantic_core import PydanticCustomError

PAIR = ("input", "output")
NO_ROWS = (str, bytes, bytearray, Mapping, BaseModel)


def rows_or_path(value: Any, other: ValidatorFunctionWrapHandler) -> Any:
    """A pydantic wrap validator: rows as a list, what else the field takes as it takes it."""
    if is_datasets_object(value):
        return value
    if isinstance(value, os.PathLike):
        return Path(value)
    if is_table(value):
        return table_rows(value)
    if isinstance(value, Iterable) and not isinstance(value, NO_ROWS):
        return [fields_of(row) for row in value]
    if isinstance(value, bytes):
        raise PydanticCustomError("bytes", "is bytes, must be list or text or path")
    return other(value)


def fields_of(row: Any) -> Any:
    """A row as a dict of its fields; what has no fields is left as it is."""
    if isinstance(row, dict):
        return row
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, BaseModel):
        return row.model_dump()
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        return row._asdict()
    if isinstance(row, tuple | list) and len(row) == len(PAIR):
        return dict(zip(PAIR, row, strict=True))
    return row


def is_table(value: Any) -> bool:
    """Whether `value` is a data frame or an Arrow table. A lazy frame's own columns cost a query,
    so its class is asked."""
    kind = type(value)
    return hasattr(kind, "columns") and (hasattr(kind, "schema") or hasattr(kind, "iloc"))


def table_rows(table: Any) -> list[dict[str, Any]]:
    """A table's rows; a cell that holds nothing, or pandas' NaN for it, is None."""
    if hasattr(table, "iloc"):  # pandas
        held = table.astype(object)
        rows: list[dict[str, Any]] = held.where(table.notna(), None).to_dict("records")
        return rows
    if hasattr(table, "to_pylist"):  # pyarrow
        return list(table.to_pylist())
    frame = table.collect() if hasattr(table, "collect") else table  # polars, lazy or not
    return list(frame.to_dicts())


def is_datasets_object(value: Any) -> bool:
    """Whether `value` is of Hugging Face's `datasets`, which is not imported to find out."""
    library = sys.modules.get("datasets")
    if library is None:
        return False
    kinds = (library.Dataset, library.IterableDataset, library.DatasetDict)
    return isinstance(value, (*kinds, library.IterableDatasetDict))
