"""The evaluation set: rows of a dataset version as prompts, and answers bought elsewhere.

Every model gets the same messages, taken from the row itself as training takes
them, so no prompt is assembled twice. The few-shot base also gets the dataset's
seeds as earlier turns: what a person would try before training anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal

from nanodistill.dataset import DatasetVersion
from nanodistill.errors import InputError
from nanodistill.thinking import Format
from nanodistill.types import Message

# A prompt a person might write by hand. Each shot adds its tokens to every prompt: twice as
# many make the few-shot base slower and overflow small contexts (the worker then drops some);
# half as many leave labels without an example in tasks of more than eight labels.
MAX_SHOTS = 16


@dataclass(frozen=True)
class EvalExample:
    """A row to score. `messages` end with the user's turn; `gold` is the reference output."""

    id: str
    messages: tuple[Message, ...]
    input: str
    gold: str
    gold_thinking: str | None
    source: str


@dataclass(frozen=True)
class EvalSet:
    """The rows to score, and the split they come from."""

    split: Literal["test", "valid"]
    rows: tuple[EvalExample, ...]

    @property
    def golds(self) -> list[str]:
        return [row.gold for row in self.rows]


@dataclass(frozen=True, slots=True)
class ExternalAnswer:
    """An answer to the row `id` that was not generated here, such as the teacher's.

    `output` is None if there was no readable answer.
    """

    id: str
    output: str | None
    text: str | None = None
    thinking: str | None = None
    cost_usd: float | None = None


# Returns answers to the rows. Called only once everything else is known to work, because the
# answers may cost money.
Answerer = Callable[[EvalSet], Iterable[ExternalAnswer]]


def usd_per_1000(answers: Iterable[ExternalAnswer]) -> float | None:
    """The cost of 1,000 such answers; None unless the cost of each is known."""
    costs = [answer.cost_usd for answer in answers]
    known = [cost for cost in costs if cost is not None]
    return 1000 * sum(known) / len(known) if known and len(known) == len(costs) else None


def eval_set(dataset: DatasetVersion) -> EvalSet:
    """The test split, or the validation split of a dataset without one.

    Raises:
        InputError: the dataset has neither.
    """
    for split in ("test", "valid"):
        rows = tuple(
            EvalExample(
                id=row["id"],
                messages=tuple(
                    Message(role=turn["role"], content=turn["content"])
                    for turn in row["messages"][:-1]
                ),
                input=row["input"],
                gold=row["output"],
                gold_thinking=row["thinking"],
                source=row["source"],
            )
            for row in dataset.rows(split)
        )
        if rows:
            return EvalSet(split, rows)
    raise InputError(
        f"dataset version {dataset.name} has no test rows and no validation rows to evaluate on.",
        next_step="Set test (a file of input/output rows), holdout_seeds or val_split, "
        "then make the dataset again.",
    )


def shots(dataset: DatasetVersion, thinking_format: Format) -> tuple[Message, ...]:
    """Up to `MAX_SHOTS` training seeds as chat turns, alternating between different outputs."""
    seeds = [row for row in dataset.rows("train") if row["source"] == "seed"]
    by_output: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(seeds, key=lambda row: row["id"]):
        by_output[row["output"]].append(row)
    # One seed of each output, then a second of each: cutting the list drops no output early.
    rounds = chain.from_iterable(zip_longest(*by_output.values()))
    chosen = [row for row in rounds if row is not None][:MAX_SHOTS]
    return tuple(
        message
        for row in chosen
        for message in (
            Message(role="user", content=row["input"]),
            Message(
                role="assistant",
                content=thinking_format.format(row["thinking"], row["output"]),
            ),
        )
    )
