"""The user's rows: seeds, a test set, training data. Read, checked, and all as `Row`.

A row is `input` and `output`, with `thinking` if there is any, or `messages` (a user's and an
assistant's, with or without a system message before them). It comes from a list, a JSONL, JSON, CSV
or parquet file, a `datasets.Dataset`, or a Hub id.

Texts are taken as they stand, to the last space. Values that are not text (numbers, true, objects,
lists) become JSON on one line, keys in the order given: see `data_files.as_text`. An assistant's
message is taken whole as the output; whether it holds thinking, only the thinking format can say,
so such a row is marked `is_chat`.

Every row that can't be used is named, all of them at once, by file, line and field. Nothing is
skipped, and a column that is not read is mentioned.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from nanodistill.config.rows import is_datasets_object
from nanodistill.config.settings import suggest
from nanodistill.config.wording import shown
from nanodistill.data_files import (
    READERS,
    HubDataset,
    Record,
    RecordOrProblem,
    as_text,
    invalid_text,
    read_records,
)
from nanodistill.dataset.manifest import InputFacts
from nanodistill.errors import DataError, Problem
from nanodistill.events import Listener, Notice, ignore
from nanodistill.hub_datasets import hub_records, split_records
from nanodistill.row_forms import (
    CHATS,
    Texts,
    chat_of,
    chat_texts,
    plain_records,
    system_text,
    unread_in,
)
from nanodistill.text_files import expanded, path_problem
from nanodistill.types import Seed, canonical_text, tagged_hash

InputKind = Literal["seed", "test", "training_data"]

INPUT_COLUMNS = frozenset({"input", "output", "thinking", *CHATS})
# A dataset version's own columns, which its rows may carry when they come back.
VERSION_COLUMNS = frozenset(
    {"id", "source", "seed_ids", "cell", "confidence", "teacher", "request_keys", "split"}
)
OTHER_NAMES = {
    "input": {"prompt", "question", "query", "text", "user", "instruction", "sentence"},
    "output": {"completion", "response", "answer", "label", "target", "assistant", "gold"},
}
COLUMNS_MENTIONED = 8
MANY = 5
"""From so many rows on, a problem that all of them share is told once."""


@dataclass(frozen=True, slots=True)
class Row(Seed):
    """A user's row and where it stands.

    `is_chat`: it came as messages, so that its output may hold thinking.
    """

    is_chat: bool = field(default=False, compare=False)
    where: str = field(default="", compare=False)


def load_rows(source: Any, *, what: InputKind, on_event: Listener = ignore) -> list[Row]:
    """All rows of `source`, in order.

    A seed that repeats an earlier one counts once, and two that answer the same
    input differently are a problem; test and training rows are taken whole.

    Raises:
        DataError: with every row that can't be used.
    """
    called = _called(source, what)
    rows: list[Row] = []
    problems: list[Problem] = []
    found = list(records_of(source, what=what, on_event=on_event))
    records, remark = plain_records([each for each in found if isinstance(each, Record)])
    if remark:
        on_event(Notice(f"{called} {remark}."))
    plain = iter(records)
    for each in found:
        row, wrong = (None, [each]) if isinstance(each, Problem) else _row(next(plain))
        rows += [row] if row else []
        problems += wrong
    if what == "seed":
        rows, conflicts = _distinct(rows, on_event)
        problems += conflicts
    if problems:
        raise DataError(f"{called} can't be used as it is:", _summed_up(problems, len(found)))
    if not rows:
        raise DataError(f"{called} can't be used as it is:", [Problem(called, "has no rows")])
    if what != "seed":
        _mention_contradictions(rows, called, on_event)
    _mention_unread(dict.fromkeys(chain(*(record.fields for record in records))), called, on_event)
    _mention_unread_in_chats(records, called, on_event)
    _mention_blank_thinking(records, called, on_event)
    return rows


def _summed_up(problems: Sequence[Problem], rows: int) -> list[Problem]:
    """A problem that all of the rows share is one of the file's form, and told once."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        field = problem.where.rpartition(": ")[2] if ": " in problem.where else ""
        kinds.setdefault((field, problem.what), []).append(problem)
    told = []
    for same in kinds.values():
        if rows < MANY or len(same) < rows:
            told += same
        else:
            first = same[0]
            told.append(Problem(first.where, f"{first.what} (and so in all {rows} rows)"))
    return told


def _mention_contradictions(rows: Sequence[Row], called: str, on_event: Listener) -> None:
    outputs: dict[str, set[str]] = {}
    for row in rows:
        outputs.setdefault(canonical_text(row.input), set()).add(canonical_text(row.output))
    if several := sum(len(said) > 1 for said in outputs.values()):
        text = f"{called}: {several} inputs occur with more than one output."
        on_event(Notice(text, "warning"))


def _mention_blank_thinking(records: Sequence[Record], called: str, on_event: Listener) -> None:
    """An empty cell means no thinking; white space may have been meant for something."""
    found = [record.where for record in records if _is_blank(record.fields.get("thinking"))]
    if found:
        text = f"{called}: thinking is nothing but white space, and taken as none: "
        on_event(Notice(text + _places(found), "warning"))


def _is_blank(thinking: Any) -> bool:
    return isinstance(thinking, str) and bool(thinking) and not thinking.strip()


def _places(found: Sequence[str]) -> str:
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{', '.join(found[:5])}{more}"


def _mention_unread_in_chats(records: Sequence[Record], called: str, on_event: Listener) -> None:
    """Say what of chats is not taken: system messages, and fields of messages."""
    chats = [(record.where, chat) for record in records if (chat := chat_of(record.fields))]
    systems = [(where, text) for where, chat in chats if (text := system_text(chat))]
    if systems:
        n = len({text for _, text in systems})
        on_event(
            Notice(
                f"{called}: {len(systems)} rows bring a system message ({n} different, the first "
                f"at {systems[0][0]}); the run's instruction takes its place.",
                "warning",
            )
        )
    if unread := sorted(set().union(*(unread_in(chat) for _, chat in chats)) if chats else ()):
        on_event(Notice(f"{called}: fields of messages that are not read: {', '.join(unread)}"))


def describe_input(source: Any, rows: Sequence[Seed]) -> InputFacts:
    """What a manifest says of an input: its form, its name without folders, a hash of its rows."""
    texts = [[row.input, row.output, row.thinking] for row in rows]
    return InputFacts(
        kind=_kind(source),
        name=_public_name(source),
        rows=len(rows),
        sha256=tagged_hash("nanodistill.input.v1", texts),
    )


def records_of(source: Any, *, what: InputKind, on_event: Listener) -> Iterator[RecordOrProblem]:
    """The rows of `source` as they are given, each with its place."""
    if isinstance(source, str | Path):
        return _named_records(source, what, on_event)
    if is_datasets_object(source):
        return split_records(source, what=what, on_event=on_event)
    if isinstance(source, list | tuple):
        return _listed(source)
    wanted = "a list of rows, a file's path, a datasets.Dataset or a Hub id"
    problem = Problem(what, f"should be {wanted}, not {type(source).__name__}")
    raise DataError("The rows can't be read:", [problem])


def _named_records(
    source: str | Path, what: InputKind, on_event: Listener
) -> Iterator[RecordOrProblem]:
    if _is_hub_id(source):
        return hub_records(str(source), what=what, on_event=on_event)
    path = expanded(source)
    if wrong := path_problem(path):
        raise DataError(
            "The rows can't be read:", [Problem(f"{what} = {shown(str(source))}", wrong)]
        )
    return read_records(path)


def _is_hub_id(source: str | Path) -> bool:
    if not isinstance(source, str) or os.path.exists(expanded(source)):
        return False
    return HubDataset.looks_like(source)


def _listed(rows: Iterable[Any]) -> Iterator[RecordOrProblem]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            what = f"should be a dict with named fields, is {row!r:.60}"
            is_file = isinstance(row, str | Path) and Path(row).suffix.lower() in READERS
            many = "; rows come from one file: name it alone" if is_file else ""
            yield Problem(f"row {number}", what + many)
        elif odd := next((name for name in row if not isinstance(name, str)), None):
            yield Problem(f"row {number}", f"has a field called {odd!r:.60}, which is no text")
        else:
            yield Record(f"row {number}", row)


def _row(record: Record) -> tuple[Row | None, list[Problem]]:
    given = {name: value for name, value in record.fields.items() if value is not None}
    chat = chat_of(given)
    is_chat = chat is not None
    texts, problems = chat_texts(chat) if is_chat else _plain_texts(given)
    if problems:
        return None, [Problem(f"{record.where}: {p.where}", p.what) for p in problems]
    row = Row(
        input=texts["input"],
        output=texts["output"],
        thinking=texts.get("thinking"),
        is_chat=is_chat,
        where=record.where,
    )
    return row, []


def _plain_texts(given: dict[str, Any]) -> Texts:
    texts: dict[str, str] = {}
    problems = []
    for name in ("input", "output"):
        if name not in given:
            problems.append(Problem(name, f"is missing{_meant(name, given)}"))
        elif wrong := _put(texts, name, given[name]):
            problems.append(Problem(name, wrong))
    thinking = given.get("thinking", "")
    if not (isinstance(thinking, str) and not thinking.strip()) and (
        wrong := _put(texts, "thinking", thinking)
    ):
        problems.append(Problem("thinking", wrong))
    return texts, problems


def _put(texts: dict[str, str], name: str, value: Any) -> str | None:
    """Put the value's text under `name`, or say what is wrong with it."""
    try:
        text = as_text(value)
    except ValueError as bad:
        return str(bad)
    if wrong := invalid_text(text):
        return wrong
    texts[name] = text
    return None


def _meant(name: str, given: Iterable[str]) -> str:
    candidates = [other for other in given if other not in INPUT_COLUMNS | VERSION_COLUMNS]
    if near := suggest(name, candidates):
        return near
    alias = next((c for c in candidates if c.strip().lower() in OTHER_NAMES[name] | {name}), None)
    return f", did you mean '{alias}'? Rename it to '{name}'" if alias else ""


def _distinct(rows: list[Row], on_event: Listener) -> tuple[list[Row], list[Problem]]:
    """Seeds without repetitions, and those that contradict an earlier one."""
    first: dict[str, Row] = {}
    repeated, problems = [], []
    for row in rows:
        earlier = first.setdefault(canonical_text(row.input), row)
        if earlier is row:
            continue
        if canonical_text(earlier.output) == canonical_text(row.output):
            repeated.append(row)
        else:
            what = f"has the same input as {earlier.where} and another output"
            problems.append(Problem(f"{row.where}: output", what))
    if repeated:
        places = _places([row.where for row in repeated])
        on_event(Notice(f"Seeds that repeat an earlier one count once: {places}."))
    return list(first.values()), problems


def _mention_unread(columns: Iterable[str], called: str, on_event: Listener) -> None:
    unread = [name for name in columns if name not in INPUT_COLUMNS | VERSION_COLUMNS]
    if not unread:
        return
    named = [f"'{name}'{suggest(name, ['thinking'])}" for name in unread[:COLUMNS_MENTIONED]]
    more = [f"{len(unread) - COLUMNS_MENTIONED} more"] * (len(unread) > COLUMNS_MENTIONED)
    on_event(Notice(f"{called}: columns that are not read: {', '.join(chain(named, more))}"))


def _called(source: Any, what: InputKind) -> str:
    return str(source) if isinstance(source, str | Path) else f"`{what}`"


def _kind(source: Any) -> Literal["list", "file", "dataset", "hub"]:
    if isinstance(source, str | Path):
        return "hub" if _is_hub_id(source) else "file"
    return "list" if isinstance(source, list | tuple) else "dataset"


def _public_name(source: Any) -> str | None:
    if not isinstance(source, str | Path):
        return None
    return str(source) if _is_hub_id(source) else Path(source).name
