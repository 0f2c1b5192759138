"""From the answers of generation calls to rows in their slots, each slot accounted for.

A call that failed fails all of its slots, unless its text holds rows that can be
saved (cut off, or JSON that would not be mended): then those are taken and the
others are `missing`, as in any short batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nanodistill.curation.sieve import Sieve
from nanodistill.journal import Journal
from nanodistill.parsing import Broken, Example, Row, parse_examples
from nanodistill.records import Rejection, Trace
from nanodistill.synthesis.generation import Call, Slot
from nanodistill.synthesis.ledger import Ledger, Placed
from nanodistill.synthesis.task import Task
from nanodistill.teacher.answers import Answer, Failure

PARSING = "parsing"
WORTH_A_LOOK = ("malformed", "truncated")


@dataclass(frozen=True)
class Reader:
    """Reads generation calls and puts what they brought through the steps for inputs."""

    task: Task
    journal: Journal
    sieve: Sieve

    def read(
        self, calls: Sequence[Call], outcomes: Iterable[Answer | Failure], ledger: Ledger
    ) -> list[Placed]:
        """Rows that are good so far, in plan order. All others are in the ledger."""
        placed = []
        for call, outcome in zip(calls, outcomes, strict=True):
            for slot, found in self._found(call, outcome, ledger):
                row = found if isinstance(found, Rejection) else self.sieve(found)
                if isinstance(row, Rejection):
                    ledger.reject(row)
                else:
                    placed.append(Placed(slot, row))
        return placed

    def _found(
        self, call: Call, outcome: Answer | Failure, ledger: Ledger
    ) -> Iterator[tuple[Slot, Trace | Rejection]]:
        """Every slot of the call with its row, or why it has none; rows too many come last."""
        rows = self._rows(outcome)
        for slot in call.slots:
            ledger.request(slot.cell.name)
        if isinstance(outcome, Failure) and not rows:
            for slot in call.slots:
                ledger.fail(slot.cell.name, outcome.kind, outcome.message)
            return
        slots = [*call.slots, *[call.slots[-1]] * (len(rows) - len(call.slots))]
        ledger.steps.reach(PARSING, len(slots))
        for place, slot in enumerate(slots):
            if place >= len(call.slots):
                ledger.request(slot.cell.name)
            row = rows[place] if place < len(rows) else None
            found = self._trace(call, slot, row, outcome.keys)
            if place >= len(call.slots) and isinstance(found, Trace):
                found = Rejection(found, "surplus", f"{len(call.slots)} rows were asked for")
            if isinstance(found, Rejection):
                ledger.steps.drop(PARSING, found.reason)
            yield slot, found

    def _trace(
        self, call: Call, slot: Slot, row: Row | None, keys: tuple[str, ...]
    ) -> Trace | Rejection:
        written, output = (row.input, row.output) if isinstance(row, Example) else ("", None)
        trace = Trace(
            input=written,
            output=(output if self.task.whole_rows else slot.cell.label) or "",
            source="synthetic",
            seed_ids=tuple(seed.id for seed in call.shown),
            cell=slot.cell.name,
            teacher=self.task.config.teacher,
            request_keys=keys,
        )
        if row is None:
            return Rejection(trace, "missing", "the batch was short")
        if isinstance(row, Broken):
            return Rejection(trace, "malformed", f"{row.why}: {row.text[:500]}")
        if self.task.whole_rows and not output:
            return Rejection(trace, "malformed", "a row without output")
        return trace

    @property
    def _is_bare_input(self) -> bool:
        """Whether an answer is one input and nothing besides."""
        is_chat = self.task.config.generation == "chat"
        return is_chat and not self.task.whole_rows and self.task.parser is None

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
