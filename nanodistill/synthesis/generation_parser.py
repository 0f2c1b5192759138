"""Rows from the answers of generation calls, each slot accounted for.

Strategies are tried in order, and the first that finds a row reads the answer: the user's own
parser, the parsed structured answer, JSON anywhere in the text (complete rows of a list that broke
off are kept), `## Example` blocks, and `Input:` / `Output:` lines. Values may span several lines.
A row that can't be used is returned as `InvalidExample`, so that it is counted.

A failed call fails all of its slots, unless its text holds rows that can be saved (it was cut off,
or its JSON could not be repaired): those are taken, and the others are `missing`, as in any short
batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill import jsontext
from nanodistill.curation.filter_pipeline import FilterPipeline
from nanodistill.engine.response_validation import Answer, Failure
from nanodistill.journal import Journal
from nanodistill.plugins import ResponseParser, user_code
from nanodistill.synthesis.coverage import Slot
from nanodistill.synthesis.generation import GenerationCall
from nanodistill.synthesis.ledger import Ledger, SlottedRow
from nanodistill.synthesis.task import Task
from nanodistill.types import Rejection, Trace

LIST_KEYS = ("examples", "inputs", "rows", "items", "data")
BLOCK = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*|\*\*)Example\b[^\n]*$", re.IGNORECASE | re.MULTILINE)
FIELD = re.compile(
    r"^[ \t]*(?:[-*][ \t]+|\d+[.)][ \t]*)?\**(?P<name>input|output)(?:[ \t]*\d+)?\**[ \t]*:"
    r"\**[ \t]?",
    re.IGNORECASE | re.MULTILINE,
)
RULE = re.compile(r"^[ \t]*(?:-{3,}|\*{3,}|`{3,}\w*)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """An input that the teacher wrote, and its output where it gave one."""

    input: str
    output: str | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class InvalidExample:
    """A row that was there and can't be used."""

    text: str
    why: str
    slot: int | None = None


Row = Example | InvalidExample


def parse_examples(
    text: str, *, data: Any = None, parser: ResponseParser | None = None
) -> list[Row]:
    """The rows of an answer, in its order.

    Args:
        data: the answer as parsed JSON, where the teacher was asked by schema.
        parser: the user's own, tried first.
    """
    strategies: list[Callable[[], list[Row]]] = [
        lambda: list(from_values(data)),
        lambda: list(from_json(text)),
        lambda: list(from_blocks(text)),
        lambda: list(from_lines(text)),
    ]
    if parser is not None:
        strategies.insert(0, lambda: _from_parser(parser, text))
    for strategy in strategies:
        rows = strategy()
        if any(isinstance(row, Example) for row in rows):
            return rows
    return []


def _from_parser(parser: ResponseParser, text: str) -> list[Row]:
    with user_code("the response parser"):
        try:
            return [as_row(value) for value in parser.parse_synthetic_examples(text)]
        except (ValueError, LookupError, TypeError, AttributeError):
            return []


def from_values(data: Any) -> Iterator[Row]:
    """Rows of a parsed JSON answer: a list, an object that holds one, or one row."""
    if isinstance(data, list):
        yield from map(as_row, data)
    elif isinstance(data, Mapping):
        held = next((data[key] for key in LIST_KEYS if isinstance(data.get(key), list)), None)
        if held is not None:
            yield from map(as_row, held)
        elif "input" in data:
            yield as_row(data)


def from_json(text: str) -> Iterator[Row]:
    """Rows of the JSON values in `text`; of a list that does not parse, those of its items."""
    for value in jsontext.embedded_values(text):
        yield from from_values(value)


def from_blocks(text: str) -> Iterator[Row]:
    """Rows under `## Example` headings."""
    heads = list(BLOCK.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=bool(heads)):
        block = text[head.end() : end]
        rows = list(from_lines(block))
        yield rows[0] if rows else InvalidExample(block.strip(), "no Input: in the block")


def from_lines(text: str) -> Iterator[Row]:
    """Rows of `Input:` and `Output:` lines; a value goes on to the next such line."""
    fields = list(FIELD.finditer(text))
    ends = [*(found.start() for found in fields[1:]), len(text)]
    given: str | None = None
    for found, end in zip(fields, ends, strict=bool(fields)):
        value = RULE.sub("", text[found.end() : end]).strip()
        if found["name"].lower() == "input":
            if given is not None:
                yield as_row({"input": given})
            given = value
        elif given is not None:
            yield as_row({"input": given, "output": value})
            given = None
    if given is not None:
        yield as_row({"input": given})


def as_row(value: Any) -> Row:
    """A row of an object with `input`, or of a bare text."""
    if isinstance(value, str):
        return Example(value.strip()) if value.strip() else InvalidExample(value, "empty input")
    if not isinstance(value, Mapping):
        return InvalidExample(_json(value), f"a row that is {type(value).__name__}")
    fields = {str(key).strip().lower(): item for key, item in value.items()}
    given = _as_text(fields.get("input"))
    if not given:
        return InvalidExample(_json(dict(value)), "no input", _as_number(fields.get("slot")))
    return Example(given, _as_text(fields.get("output")), _as_number(fields.get("slot")))


def _as_number(value: Any) -> int | None:
    text = str(value).strip() if not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value.strip() if value else value
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def by_slot(rows: Sequence[Row], slots: int) -> list[Row | None]:
    """The rows in order of the slots that they name, None where a slot has none; then the others.

    Rows that name no slot, or one that is taken, fill the open slots in their order. Some models
    count from 0.
    """
    numbers = [row.slot for row in rows]
    first = 0 if 0 in numbers else 1
    placed: list[Row | None] = [None] * slots
    others: list[Row] = []
    for row, number in zip(rows, numbers, strict=True):
        place = -1 if number is None else number - first
        if 0 <= place < slots and placed[place] is None:
            placed[place] = row
        else:
            others.append(row)
    waiting = iter(others)
    for place, row_ in enumerate(placed):
        if row_ is None:
            placed[place] = next(waiting, None)
    return [*placed, *waiting]


PARSING = "parsing"
WORTH_A_LOOK = ("malformed", "truncated")


@dataclass(frozen=True)
class GenerationParser:
    """Reads generation calls and puts what they brought through the steps for inputs."""

    task: Task
    journal: Journal
    sieve: FilterPipeline

    def read(
        self, calls: Sequence[GenerationCall], results: Iterable[Answer | Failure], ledger: Ledger
    ) -> list[SlottedRow]:
        """Rows that are good so far, in plan order. All others are in the ledger."""
        placed = []
        for call, outcome in zip(calls, results, strict=True):
            for slot, found in self._found(call, outcome, ledger):
                row = found if isinstance(found, Rejection) else self.sieve(found)
                if isinstance(row, Rejection):
                    ledger.reject(row, slot)
                else:
                    placed.append(SlottedRow(slot, row))
        return placed

    def _found(
        self, call: GenerationCall, outcome: Answer | Failure, ledger: Ledger
    ) -> Iterator[tuple[Slot, Trace | Rejection]]:
        """Every slot of the call with its row, or why it has none; rows too many come last."""
        rows = self._rows(outcome)
        for slot in call.slots:
            ledger.request(slot.cell.name)
        if isinstance(outcome, Failure) and not rows:
            for slot in call.slots:
                ledger.fail(slot.cell.name, outcome.kind, outcome.message)
            return
        ordered = by_slot(rows, len(call.slots))
        slots = [*call.slots, *[call.slots[-1]] * (len(ordered) - len(call.slots))]
        ledger.steps.reach(PARSING, len(slots))
        for place, slot in enumerate(slots):
            if place >= len(call.slots):
                ledger.request(slot.cell.name)
            found = self._trace(call, slot, ordered[place], outcome.keys)
            if place >= len(call.slots) and isinstance(found, Trace):
                found = Rejection(found, "surplus", f"{len(call.slots)} rows were asked for")
            if isinstance(found, Rejection):
                ledger.steps.drop(PARSING, found.reason)
            yield slot, found

    def _trace(
        self, call: GenerationCall, slot: Slot, row: Row | None, keys: tuple[str, ...]
    ) -> Trace | Rejection:
        written, output = (row.input, row.output) if isinstance(row, Example) else ("", None)
        trace = Trace(
            input=written,
            output=(output if self.task.generates_outputs else slot.cell.label) or "",
            source="synthetic",
            seed_ids=tuple(seed.id for seed in call.shown),
            cell=slot.cell.name,
            teacher=self.task.config.teacher,
            request_keys=keys,
        )
        if row is None:
            return Rejection(trace, "missing", "the batch was short")
        if isinstance(row, InvalidExample):
            return Rejection(trace, "malformed", f"{row.why}: {row.text[:500]}")
        if self.task.generates_outputs and not output:
            return Rejection(trace, "malformed", "a row without output")
        return trace

    @property
    def _is_bare_input(self) -> bool:
        """Whether an answer is one input and nothing besides."""
        is_chat = self.task.config.generation == "chat"
        return is_chat and not self.task.generates_outputs and self.task.parser is None

    def _rows(self, outcome: Answer | Failure) -> list[Row]:
        if isinstance(outcome, Answer):
            text, data = outcome.completion.text, outcome.data
            if self._is_bare_input:
                return [Example(text)]
            return parse_examples(text, data=data, parser=self.task.parser)
        if outcome.kind not in WORTH_A_LOOK or self.task.config.generation == "chat":
            return []
        known = self.journal.responses(outcome.keys)
        answers = [known[key].completion for key in outcome.keys if key in known]
        texts = [answer.text for answer in answers if answer is not None]
        found = [parse_examples(text, parser=self.task.parser) for text in texts]
        return max(found, key=len, default=[])
