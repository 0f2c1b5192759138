"""Rows as people hold them in Python: they work, or are named by row and field."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from pydantic import BaseModel

from nanodistill.config import DistillationConfig
from nanodistill.errors import DataError, NanoDistillError
from nanodistill.seeds import InputKind, load_rows

ROWS = [{"input": f"word {letter}", "output": f"label {letter}"} for letter in "abcd"]
FIELDS: list[InputKind] = ["seed", "test", "training_data"]


class Model(BaseModel):
    input: str
    output: str


@dataclasses.dataclass
class Plain:
    input: str
    output: str


class Named(NamedTuple):
    input: str
    output: str


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(ROWS).assign(**columns)


def polars_frame() -> Any:
    return pytest.importorskip("polars").DataFrame(ROWS)


FORMS: dict[str, Callable[[], Any]] = {
    "data frame": frame,
    "indexed data frame": lambda: frame().set_index(pd.Index(list("wxyz"))),
    "data frame with gaps": lambda: frame(thinking=[None, np.nan, pd.NA, pd.NaT]),
    "polars": polars_frame,
    "lazy polars": lambda: polars_frame().lazy(),
    "arrow": lambda: datasets.Dataset.from_list(ROWS).data.table,
    "generator": lambda: (row for row in ROWS),
    "iterator": lambda: iter(ROWS),
    "tuple": lambda: tuple(ROWS),
    "array": lambda: np.array(ROWS),
    "series": lambda: pd.Series(ROWS),
    "pairs": lambda: [tuple(row.values()) for row in ROWS],
    "items": lambda: {row["input"]: row["output"] for row in ROWS}.items(),
    "models": lambda: [Model(**row) for row in ROWS],
    "dataclasses": lambda: [Plain(**row) for row in ROWS],
    "named tuples": lambda: [Named(**row) for row in ROWS],
    "mappings": lambda: [types.MappingProxyType(row) for row in ROWS],
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "iterable dataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "dataset dict": lambda: datasets.DatasetDict(one=datasets.Dataset.from_list(ROWS)),
}  # fmt: skip


def read(field: InputKind, value: Any) -> list[tuple[str, str, str | None]]:
    given: Mapping[str, Any] = {"seed": ROWS} | {field: value}
    config = DistillationConfig(name="x", instruction="Say what it is.", **given)
    assert config.to_json()
    rows = load_rows(getattr(config, field), what=field)
    return [(row.input, row.output, row.thinking) for row in rows]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("form", FORMS)
def test_rows_in_every_form(field: InputKind, form: str) -> None:
    assert read(field, FORMS[form]()) == [(*row.values(), None) for row in ROWS]


@pytest.mark.parametrize("field", FIELDS)
def test_a_path_of_any_kind(field: InputKind, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("input,output\na b,c\n")
    assert read(field, PurePath(tmp_path / "rows.csv")) == [("a b", "c", None)]


@pytest.mark.parametrize("field", FIELDS)
def test_numbers_of_numpy_are_numbers(field: InputKind) -> None:
    rows = [
        {"input": np.str_("a b"), "output": np.int64(3)},
        {"input": "c d", "output": np.float32(0.5)},
        {"input": "e f", "output": {"n": np.bool_(True), "all": np.array([1, 2])}},
    ]
    outputs = [output for _, output, _ in read(field, rows)]
    assert outputs == ["3", "0.5", '{"n": true, "all": [1, 2]}']


@pytest.mark.parametrize("field", FIELDS)
def test_labels_of_a_dataset_keep_their_names(field: InputKind) -> None:
    label = datasets.ClassLabel(names=["animal", "plant"])
    features = datasets.Features(input=datasets.Value("string"), output=label)
    rows = {"input": ["cat here", "oak there"], "output": [0, 1]}
    found = read(field, datasets.Dataset.from_dict(rows, features=features))
    assert [output for _, output, _ in found] == ["animal", "plant"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("rows", "where"),
    [
        ([ROWS[0], 5], "row 2"),
        ([ROWS[0], None], "row 2"),
        (["seeds.jsonl"], "row 1"),
        ([Path("seeds.jsonl")], "row 1"),
        ([("a", "b", "c")], "row 1"),
        ([{1: "a"}], "row 1"),
        (pd.Series(["a", "b"]), "row 1"),
        (frame(output=["a", np.nan, "c", "d"]), "row 2: output"),
        ([ROWS[0], {"input": "b c", "output": float("nan")}], "row 2: output"),
        ([{"input": "b c", "output": np.float64("nan")}], "row 1: output"),
        ([{"input": "b c", "output": None}], "row 1: output"),
        ([{"input": Path("b"), "output": "x"}], "row 1: input"),
        ([{"input": "b c", "output": b"x"}], "row 1: output"),
        ([{"input": "b c", "output": pd.Timestamp("2024-01-01")}], "row 1: output"),
    ],
)  # fmt: skip
def test_rows_that_are_none_are_named(field: InputKind, rows: Any, where: str) -> None:
    with pytest.raises(DataError) as refused:
        read(field, rows)
    assert refused.value.problems[0].where == where


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [5, b"rows.jsonl", ROWS[0], {"input": ["a"]}, object(), Model])
def test_what_holds_no_rows_is_named(field: InputKind, value: Any) -> None:
    with pytest.raises(NanoDistillError, match=f"{field}: is .*, must be list or text or path"):
        read(field, value)
