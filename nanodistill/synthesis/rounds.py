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
from itertools import islice
from math import ceil
from typing import Literal

from anyio import to_thread

from nanodistill.events import ROWS, Listener, Notice, Progress
from nanodistill.records import Request
from nanodistill.synthesis.answering import Answering
from nanodistill.synthesis.generation import Call, Caller, Memory, Slot, Writer
from nanodistill.synthesis.ledger import Ledger, Placed
from nanodistill.synthesis.reading import Reader
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teaching import Teaching
from nanodistill.teacher.engine import Survey

LARGEST_ROUND = 10_000
MOST_MAIN_ROUNDS = 10
SMALLEST_ROUND = 256
MAIN_ROUNDS = 4
NEW_ENOUGH = 0.05
BARREN_ROUNDS, BARREN_ROWS = 2, 20

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

    async def fill(
        self, slots: Iterator[Slot], wanted: int, ledger: Ledger, listen: Listener
    ) -> StopReason:
        """Run rounds until the first `wanted` of `slots` are filled, or something else ends it."""
        fresh = islice(slots, wanted)
        left: list[Slot] = []
        barren: list[int] = []
        filled_so_far = 0
        listen(Progress(ROWS, 0, wanted, "kept"))
        for number in range(1, self._task.config.max_rounds + 1):
            if filled_so_far == wanted:
                break
            size = self.size(wanted, wanted - filled_so_far, number)
            asked = await to_thread.run_sync(_taken, left, fresh, size)
            calls = await to_thread.run_sync(self._caller.calls, asked)
            if number == 1:
                listen(announced(await self._teacher.survey(self._requests(calls))))
            filled = await self._work(calls, ledger)
            left = [slot for slot in (*asked, *left[size:]) if slot.number not in filled]
            filled_so_far += len(filled)
            listen(Progress(ROWS, filled_so_far, wanted, "kept"))
            listen(Notice(f"Round {number}: {len(filled)} of {len(asked)} rows were good."))
            barren = [] if len(filled) >= NEW_ENOUGH * len(asked) else [*barren, len(asked)]
            if len(barren) >= BARREN_ROUNDS and sum(barren) >= BARREN_ROWS:
                return "saturated"
        return "complete" if filled_so_far == wanted else "max_rounds"

    async def preview(
        self, slots: Iterator[Slot], wanted: int, limit: int, ledger: Ledger
    ) -> StopReason:
        """The first calls that `fill` would make, until `limit` rows are there."""
        size = self.size(wanted, wanted, 1)
        asked = await to_thread.run_sync(_taken, [], islice(slots, wanted), size)
        calls = await to_thread.run_sync(self._caller.calls, asked)
        found = 0
        while calls and found < limit:
            some = _first_calls(calls, limit - found)
            found += len(await self._work(some, ledger))
            calls = calls[len(some) :]
        return "preview"

    def size(self, wanted: int, left: int, number: int) -> int:
        """How many slots a round takes.

        Chat calls learn nothing from earlier rounds, so one round asks for all.
        Structured ones are told what to keep away from: the work is shared over
        some rounds, fewer where `max_rounds` leaves no time for top-ups.
        """
        largest = max(LARGEST_ROUND, ceil(wanted / MOST_MAIN_ROUNDS))
        if self._task.config.generation == "chat":
            return largest
        main = max(1, min(MAIN_ROUNDS, self._task.config.max_rounds // 2))
        share = left if number > main else ceil(wanted / main)
        return min(largest, max(SMALLEST_ROUND, share))

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


def _taken(left: Sequence[Slot], fresh: Iterator[Slot], size: int) -> list[Slot]:
    """The next slots in plan order: those left over, then new ones."""
    some = list(left[:size])
    return [*some, *islice(fresh, size - len(some))]


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
