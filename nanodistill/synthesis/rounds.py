"""One round after another until the rows are there: ask, read, sift, count.

A round takes the slots that are still open, in plan order, and asks for all of
them. When every call of the round has its outcome, the rows are read in plan
order and go through the steps; what is left fills its slot, and what is not is
counted with its reason and leaves the slot open for the next round. Nothing in
a round looks at when an answer came.

Rounds end when no slot is open, after `max_rounds`, or when they stop bringing
anything new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from anyio import to_thread

from nanodistill.events import Listener, Notice, Progress
from nanodistill.records import Request
from nanodistill.synthesis.answering import Answering
from nanodistill.synthesis.generation import Call, Caller, Memory, Slot, Writer
from nanodistill.synthesis.ledger import Ledger, Placed
from nanodistill.synthesis.reading import Reader
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teaching import Teaching
from nanodistill.teacher.engine import Survey

LARGEST_ROUND = 20_000
SMALLEST_ROUND = 256
MAIN_ROUNDS = 4
NEW_ENOUGH = 0.05
BARREN_ROUNDS = 2

StopReason = Literal["complete", "saturated", "max_rounds", "preview"]


@dataclass(frozen=True)
class Requests:
    """The requests of some calls, made when they are needed, each time the same ones."""

    calls: Sequence[Call]
    make: Callable[[Call], Request]

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[Request]:
        return map(self.make, self.calls)


class Rounds:
    """The rounds of one run."""

    def __init__(
        self, task: Task, teacher: Teaching, writer: Writer, reader: Reader, answering: Answering
    ) -> None:
        self._task = task
        self._teacher = teacher
        self._writer = writer
        self._reader = reader
        self._answering = answering
        self._memory = Memory()
        self._caller = Caller(task, self._memory)

    async def fill(self, slots: Sequence[Slot], ledger: Ledger, listen: Listener) -> StopReason:
        """Run rounds until `slots` are filled, or there is a reason to stop."""
        left = list(slots)
        barren = 0
        for number in range(1, self._task.config.max_rounds + 1):
            if not left:
                break
            asked = left[: self.size(len(slots), len(left), number)]
            calls = await to_thread.run_sync(self._caller.calls, asked)
            if number == 1:
                listen(announced(await self._teacher.survey(self._requests(calls))))
            filled = await self._work(calls, ledger)
            left = [slot for slot in left if slot.number not in filled]
            listen(Progress("rows", len(slots) - len(left), len(slots)))
            listen(Notice(f"Round {number}: {len(filled)} of {len(asked)} rows were good."))
            barren = 0 if len(filled) >= NEW_ENOUGH * len(asked) else barren + 1
            if barren == BARREN_ROUNDS and left:
                return "saturated"
        return "max_rounds" if left else "complete"

    async def preview(self, slots: Sequence[Slot], wanted: int, ledger: Ledger) -> StopReason:
        """The first calls that `fill` would make, until `wanted` rows are there."""
        calls = self._caller.calls(slots[: self.size(len(slots), len(slots), 1)])
        found = 0
        while calls and found < wanted:
            some = _first_calls(calls, wanted - found)
            found += len(await self._work(some, ledger))
            calls = calls[len(some) :]
        return "preview"

    def size(self, wanted: int, left: int, number: int) -> int:
        """How many slots a round takes.

        Chat calls learn nothing from earlier rounds, so one round asks for all.
        Structured ones are told what to keep away from: the work is shared over
        some rounds, fewer where `max_rounds` leaves no time for top-ups.
        """
        if self._task.config.generation == "chat":
            return LARGEST_ROUND
        main = max(1, min(MAIN_ROUNDS, self._task.config.max_rounds // 2))
        share = left if number > main else ceil(wanted / main)
        return min(LARGEST_ROUND, max(SMALLEST_ROUND, share))

    def _requests(self, calls: Sequence[Call]) -> Requests:
        return Requests(calls, lambda call: self._writer.request(call, self._teacher))

    async def _work(self, calls: Sequence[Call], ledger: Ledger) -> set[int]:
        """Make some calls, and numbers of the slots that their rows filled."""
        requests = self._requests(calls)
        await self._teacher.settle(requests)
        outcomes = self._teacher.outcomes(requests)
        placed = await to_thread.run_sync(self._reader.read, calls, outcomes, ledger)
        rows = await self._answering.finish(placed, ledger)
        return await to_thread.run_sync(self._keep, rows, ledger)

    def _keep(self, rows: Sequence[Placed], ledger: Ledger) -> set[int]:
        for placed in rows:
            ledger.keep(placed.row)
            self._memory.add(placed.slot.cell.label, placed.row.input)
        return {placed.slot.number for placed in rows}


def announced(survey: Survey) -> Notice:
    """What the first round is about to reuse and ask."""
    if not survey.to_ask:
        return Notice(f"All {survey.reused} calls of the first round are in the journal.")
    cost = "" if survey.cost_usd is None else f", about ${survey.cost_usd:.2f}"
    kept = f"{survey.reused} calls kept, " if survey.reused else ""
    return Notice(f"First round of generation: {kept}{survey.to_ask} to ask{cost}.")


def _first_calls(calls: Sequence[Call], rows: int) -> Sequence[Call]:
    """As many of `calls`, from the first, as bring so many rows."""
    brought = 0
    for place, call in enumerate(calls, start=1):
        brought += len(call.slots)
        if brought >= rows:
            return calls[:place]
    return calls
