"""What the models are asked: the rows of a dataset version, up to the answer.

Every model gets the same messages. They come from the row itself (its
instruction as system message, its input), just as it would have been trained
on, so that no prompt is put together twice. The base is asked once more with
the dataset's seeds as earlier turns of the chat: what a person would try
without training anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal

from nanodistill.dataset import DatasetVersion
from nanodistill.errors import InputError
from nanodistill.thinking import Format
from nanodistill.types import Message

MOST_SHOTS = 16
"""Seeds shown at most; a model with a small context is shown fewer."""


@dataclass(frozen=True)
class EvalExample:
    """A row to be judged. `messages` end with the user's turn; `gold` is the right output."""

    id: str
    messages: tuple[Message, ...]
    input: str
    gold: str
    gold_thinking: str | None
    source: str


@dataclass(frozen=True)
class EvalSet:
    """The rows to judge by, and the split that they are of."""

    split: Literal["test", "valid"]
    rows: tuple[EvalExample, ...]

    @property
    def golds(self) -> list[str]:
        return [row.gold for row in self.rows]


def eval_set(dataset: DatasetVersion) -> EvalSet:
    """The test split, or the validation split where there is no test split.

    Raises:
        InputError: the dataset has neither.
    """
    for split in ("test", "valid"):
        rows = tuple(_eval_example(row) for row in dataset.rows(split))
        if rows:
            return EvalSet(split, rows)
    raise InputError(
        f"dataset version {dataset.name} has no test rows and no validation rows to judge by.",
        next_step="Set test (a file of input/output rows), holdout_seeds or val_split, "
        "and make the dataset again.",
    )


def shots(dataset: DatasetVersion, form: Format) -> tuple[Message, ...]:
    """Seeds of the train split as turns of a chat, the different outputs by turns."""
    seeds = [row for row in dataset.rows("train") if row["source"] == "seed"]
    chosen = list(_by_turns(sorted(seeds, key=lambda row: row["id"])))[:MOST_SHOTS]
    return tuple(chain.from_iterable(_turns(row, form) for row in chosen))


def _eval_example(row: Mapping[str, Any]) -> EvalExample:
    return EvalExample(
        id=row["id"],
        messages=tuple(_message(turn) for turn in row["messages"][:-1]),
        input=row["input"],
        gold=row["output"],
        gold_thinking=row["thinking"],
        source=row["source"],
    )


def _message(turn: Mapping[str, Any]) -> Message:
    return Message(role=turn["role"], content=turn["content"])


def _turns(row: Mapping[str, Any], form: Format) -> tuple[Message, Message]:
    answer = form.format(row["thinking"], row["output"])
    return Message(role="user", content=row["input"]), Message(role="assistant", content=answer)


def _by_turns(rows: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The rows, one of each output, then a second of each, so that a cut leaves none out."""
    by_output: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_output[row["output"]].append(row)
    for one_of_each in zip_longest(*by_output.values()):
        yield from (row for row in one_of_each if row is not None)
