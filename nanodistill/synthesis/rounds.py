"""Rounds of generation: ask, read, filter, count, until the rows are there.

A round takes the open slots in plan order and asks for all of them. When every call of the round
has its result, the rows are read in plan order and filtered. A row that passes fills its slot; any
other is counted with its reason and leaves the slot open for a later round. Nothing in a round
depends on when an answer arrived.

While new slots are left, two rounds run at once: when one completes, the one after next is built
and asked, so the teacher waits neither for the slowest answer of a round nor for its rows to be
read. What a round says therefore depends on the rounds up to the last but one, always. A round that
only refills slots waits for the round before it, because how many are missing is not known sooner.

Rounds start small, so that calls soon know of earlier rows to keep away from, and grow by a quarter
of what was taken before. The number of rows wanted has no part in that: a run that later wants more
takes the same first rounds, whose answers are in the journal. Only where growth alone would not
finish in three quarters of `max_rounds` are all rounds larger.

Rounds end when no slot is open, after `max_rounds`, or when they stop bringing anything new. If the
rows of the last rounds were lost for another reason than being known already (the provider refuses,
answers are cut off, a check rejects them), the run fails, with the reason and what was said.

A call that failed too often in a session has no answer in the journal, so another session would ask
it again. That is right as long as rows are wanted. A run that got its rows elsewhere is finished:
asking would cost money and make another dataset of the same configuration. So a complete run notes
in the journal which calls it did without, and the same run again leaves them alone.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import islice
from math import ceil
from typing import Literal

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from nanodistill.curation.cues import Cue
from nanodistill.dataset import config_hash
from nanodistill.engine.response_index import FailedRequest
from nanodistill.errors import TooFewRowsError, unwrap_group
from nanodistill.events import Listener, Notice
from nanodistill.journal import Journal
from nanodistill.synthesis.answer_stage import AnswerStage
from nanodistill.synthesis.cost_preview import ProgressForecast, announce_costs, forecast_costs
from nanodistill.synthesis.coverage import Slot
from nanodistill.synthesis.cue_watch import CueWatch
from nanodistill.synthesis.generation import CallPlanner, GenerationCall, RecentInputs
from nanodistill.synthesis.generation_parser import GenerationParser
from nanodistill.synthesis.generation_prompt import PromptBuilder
from nanodistill.synthesis.ledger import Ledger, SlottedRow
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Request, tagged_hash

SMALLEST_ROUND = 128
GROWTH = 4


def round_size(number: int, *, taken: int, left: int, wanted: int, max_rounds: int) -> int:
    """Slots of the round of this `number`, from 1.

    `taken` were in rounds before it, `left` are still open of those `wanted`.
    """
    main = max(1, max_rounds * 3 // 4)
    if number > main:
        return max(SMALLEST_ROUND, left)
    grown = max(SMALLEST_ROUND, taken // GROWTH)
    return grown if _reach(main) >= wanted else max(grown, ceil(wanted / main))


def _reach(rounds: int) -> int:
    """Slots that so many rounds take if they grow by themselves."""
    taken = 0
    for _ in range(rounds):
        taken += max(SMALLEST_ROUND, taken // GROWTH)
    return taken


NOTE = "done without"


def abandon_requests(
    journal: Journal, task: Task, lost: Mapping[str, FailedRequest], stopped: str
) -> None:
    """Note what a run that is complete did without; one that is not wants it still."""
    if lost or journal.note(NOTE) is not None:
        kept = {key: astuple(why) for key, why in lost.items()} if stopped == "complete" else {}
        journal.keep_note(NOTE, json.dumps({"run": _identity(task), "lost": kept}))


def abandoned_requests(journal: Journal, task: Task) -> dict[str, FailedRequest]:
    """What this very run did without when it was complete."""
    note = journal.note(NOTE)
    if note is None:
        return {}
    held = json.loads(note)
    if held["run"] != _identity(task):
        return {}
    return {key: FailedRequest(*why) for key, why in held["lost"].items()}


def _identity(task: Task) -> str:
    rows = [[row.id for row in some] for some in (task.seeds, task.test)]
    return tagged_hash("nanodistill.run.v1", [config_hash(task.config), rows])


LARGEST_ROUND = 10_000
MOST_LARGE_ROUNDS = 10
MAX_CONCURRENT_ROUNDS = 2
MOST_KEPT = 1000
NEW_ENOUGH = 0.05
LOW_YIELD_ROUNDS, LOW_YIELD_ROWS = 2, 20

KNOWN_ALREADY = frozenset({"duplicate", "near_duplicate", "contaminated", "surplus"})
"""Reasons for which rows are lost that are good, but nothing new."""
FEW_MISSING = 0.1
"""Share of the wanted rows that a run may do without, whatever became of them."""

StopReason = Literal["complete", "saturated", "failing", "max_rounds", "preview"]


@dataclass(frozen=True)
class Requests(Collection[Request]):
    """The requests of some calls, made when they are needed, each time the same ones."""

    calls: Sequence[GenerationCall]
    make: Callable[[GenerationCall], Request]

    def __contains__(self, request: object) -> bool:
        return any(each == request for each in self)

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[Request]:
        return map(self.make, self.calls)


@dataclass
class Round:
    """Some slots and their calls, which are being asked until `asked` is set."""

    number: int
    slots: Sequence[Slot]
    calls: Sequence[GenerationCall]
    requests: Collection[Request]
    asked: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


@dataclass(frozen=True)
class LowYieldRound:
    """A round that brought hardly a row: how many it asked for, and how many it lost to what."""

    asked: int
    lost: Counter[str]


class SlotPool:
    """The slots that are still to be filled: left over from complete rounds, and new ones."""

    def __init__(self, slots: Iterator[Slot], wanted: int) -> None:
        self._fresh = islice(slots, wanted)
        self.wanted = self.fresh = wanted
        self.taken = 0
        self._left: list[Slot] = []

    def __len__(self) -> int:
        return len(self._left) + self.fresh

    def take(self, size: int) -> list[Slot]:
        """The next ones in plan order: those left over, then new ones."""
        taken, self._left = self._left[:size], self._left[size:]
        new = list(islice(self._fresh, size - len(taken)))
        self.fresh -= len(new)
        self.taken += len(taken) + len(new)
        return [*taken, *new]

    def put_back(self, slots: Sequence[Slot]) -> None:
        self._left = sorted([*self._left, *slots], key=lambda slot: slot.number)


class Rounds:
    """The rounds of one run. Those that ask `in_turn` are made alike, and asked one by one."""

    def __init__(
        self,
        task: Task,
        teacher: TeacherProtocol,
        writer: PromptBuilder,
        reader: GenerationParser,
        answering: AnswerStage,
        *,
        in_turn: bool = False,
    ) -> None:
        self._task = task
        self._teacher = teacher
        self._writer = writer
        self._reader = reader
        self._answering = answering
        self._in_turn = in_turn
        self._memory = RecentInputs()
        self._caller = CallPlanner(task, self._memory, list(writer.axes.values()))
        self._cues = CueWatch(task)

    @property
    def cues(self) -> Sequence[Cue]:
        """Features of the kept rows that give their answers away."""
        return self._cues.cues

    async def fill(
        self, slots: Iterator[Slot], wanted: int, ledger: Ledger, on_event: Listener
    ) -> StopReason:
        """Run rounds until the first `wanted` of `slots` are filled, or something else ends it."""
        try:
            async with anyio.create_task_group() as tasks:
                reason = await self._fill(tasks, SlotPool(slots, wanted), ledger, on_event)
        except BaseExceptionGroup as group:
            raise unwrap_group(group) from None
        return reason

    async def _fill(
        self, tasks: TaskGroup, open_: SlotPool, ledger: Ledger, on_event: Listener
    ) -> StopReason:
        under_way: deque[Round] = deque()
        low_yield: list[LowYieldRound] = []
        filled, numbers = 0, iter(range(1, self._task.config.max_rounds + 1))
        saturated = False
        forecast = ProgressForecast(open_.wanted, self._teacher.account, seeds=len(ledger.kept))
        on_event(forecast.progress(0))
        while True:
            while not saturated and self._may_begin(open_, under_way):
                if (number := next(numbers, None)) is None:
                    break
                under_way.append(await self._begun(number, open_, on_event))
                await self._ask(tasks, under_way[-1])
            if not under_way:
                break
            round_ = under_way.popleft()
            before = ledger.lost()
            got = await self._complete(round_, ledger)
            open_.put_back(
                [
                    slot.rejected_for(ledger.attempts.get(slot.number))
                    for slot in round_.slots
                    if slot.number not in got
                ]
            )
            ledger.attempts.clear()
            self._steer(on_event, has_more=open_.fresh > 0)
            filled += len(got)
            on_event(
                forecast.progress(filled, self._ahead(under_way, len(got) / len(round_.slots)))
            )
            asked = len(round_.slots)
            on_event(
                Notice(
                    f"Round {round_.number}: {len(got)} of {asked} rows accepted; checked: "
                    f"{', '.join(self._answering.checks)}."
                )
            )
            brought_little = len(got) < NEW_ENOUGH * asked
            lost = ledger.lost() - before
            low_yield = [*low_yield, LowYieldRound(asked, lost)] if brought_little else []
            rows = sum(each.asked for each in low_yield)
            saturated = len(low_yield) >= LOW_YIELD_ROUNDS and rows >= LOW_YIELD_ROWS
        if not len(open_):
            return "complete"
        if is_failing(lost := sum((each.lost for each in low_yield), Counter())):
            failure = no_rows(lost, ledger)
            if len(open_) > FEW_MISSING * open_.wanted:
                raise failure
            on_event(Notice(failure.message, "warning"))
            return "failing"
        return "saturated" if saturated else "max_rounds"

    def _steer(self, on_event: Listener, *, has_more: bool) -> None:
        """Tell of surface features that give answers away, and have new calls do without them."""
        new = self._cues.look()
        self._caller.avoid_cues(self._cues.by_label())
        for cue in new:
            then = " New calls are asked to do without it." if has_more else ""
            on_event(Notice(f"{cue}{then}", "warning"))

    @staticmethod
    def _may_begin(open_: SlotPool, under_way: Sequence[Round]) -> bool:
        """Whether another round has slots: new ones, or those that nothing under way may fill."""
        if under_way:
            return len(under_way) < MAX_CONCURRENT_ROUNDS and open_.fresh > 0
        return len(open_) > 0

    def _ahead(self, under_way: Sequence[Round], good: float) -> float:
        """Rows that the rounds under way have paid for: half of each where answers follow."""
        asked = sum(len(round_.slots) for round_ in under_way if round_.asked.is_set())
        return asked * good * (0.5 if self._task.asks_answers else 1.0)

    async def _begun(self, number: int, open_: SlotPool, on_event: Listener) -> Round:
        size = self.size(open_, number)
        slots = await to_thread.run_sync(open_.take, size)
        calls = await to_thread.run_sync(self._caller.calls, slots)
        requests = await to_thread.run_sync(self._requests, calls)
        if number == 1:
            survey = await self._teacher.survey(requests)
            whole = await forecast_costs(
                calls, survey, open_.wanted, self._answering, self._teacher
            )
            on_event(announce_costs(survey, len(calls), whole))
        return Round(number, slots, calls, requests)

    async def _ask(self, tasks: TaskGroup, round_: Round) -> None:
        if self._in_turn:
            await self._settle(round_)
        else:
            tasks.start_soon(self._settle, round_)

    async def _settle(self, round_: Round) -> None:
        """What stops the asking is raised when the round's turn comes."""
        try:
            await self._teacher.complete_all(round_.requests)
        except Exception as error:  # noqa: BLE001 - raised by `_complete`
            round_.error = error
        round_.asked.set()

    async def _complete(self, round_: Round, ledger: Ledger) -> set[int]:
        """Numbers of the slots that the round filled."""
        await round_.asked.wait()
        if round_.error is not None:
            raise round_.error
        return await self._process_round(round_.calls, round_.requests, ledger)

    async def preview(
        self, slots: Iterator[Slot], wanted: int, limit: int, ledger: Ledger
    ) -> StopReason:
        """The first calls that `fill` would make, until `limit` rows are there."""
        open_ = SlotPool(slots, wanted)
        asked = await to_thread.run_sync(open_.take, self.size(open_, 1))
        calls = await to_thread.run_sync(self._caller.calls, asked)
        found, before = 0, ledger.lost()
        while calls and found < limit:
            some = _first_calls(calls, limit - found)
            requests = self._requests(some)
            await self._teacher.complete_all(requests)
            found += len(await self._process_round(some, requests, ledger))
            calls = calls[len(some) :]
        if asked and not found and is_failing(lost := ledger.lost() - before):
            raise no_rows(lost, ledger)
        return "preview"

    def size(self, open_: SlotPool, number: int) -> int:
        """How many slots a round takes.

        Chat calls learn nothing from earlier rounds, so one round asks for all.
        """
        largest = max(LARGEST_ROUND, ceil(open_.wanted / MOST_LARGE_ROUNDS))
        if self._task.config.generation == "chat":
            return largest
        most = self._task.config.max_rounds
        size = round_size(
            number, taken=open_.taken, left=len(open_), wanted=open_.wanted, max_rounds=most
        )
        return min(largest, size)

    def _requests(self, calls: Sequence[GenerationCall]) -> Collection[Request]:
        """The calls' requests, kept where there are not so many that memory would grow."""
        requests = Requests(calls, lambda call: self._writer.request(call, self._teacher))
        return list(requests) if len(calls) <= MOST_KEPT else requests

    async def _process_round(
        self, calls: Sequence[GenerationCall], requests: Iterable[Request], ledger: Ledger
    ) -> set[int]:
        """Read what some settled calls brought; numbers of the slots that it filled."""
        results = self._teacher.results(requests)
        placed = await to_thread.run_sync(self._reader.read, calls, results, ledger)
        rows = await self._answering.finish(placed, ledger)
        return await to_thread.run_sync(self._keep, rows, ledger)

    def _keep(self, rows: Sequence[SlottedRow], ledger: Ledger) -> set[int]:
        for placed in rows:
            ledger.keep(placed.row)
            self._memory.add(placed.slot.cell.label, placed.row.input)
            self._cues.add(placed.slot.cell, placed.row)
        return {placed.slot.number for placed in rows}


def is_failing(lost: Counter[str]) -> bool:
    """Whether most of these rows were lost for another reason than being known already."""
    known = sum(lost[reason] for reason in KNOWN_ALREADY)
    return lost.total() > 2 * known


def no_rows(lost: Counter[str], ledger: Ledger) -> TooFewRowsError:
    """What rounds without rows come to: the reasons, what was said, and what to do."""
    told = ", ".join(f"{reason} {n}" for reason, n in lost.most_common())
    reason = next(reason for reason, _ in lost.most_common() if reason not in KNOWN_ALREADY)
    words = ledger.words[reason]
    way_out = WAYS_OUT.get(reason, "Mend what it says")
    return TooFewRowsError(
        f"Of the last {lost.total():,} rows asked for hardly one was good; lost: {told}."
        + (f" {reason}: {words}" if words else ""),
        next_step=f"{way_out}, look at a preview (synth --limit 20), and run the same command: "
        "it goes on from here, and no call is bought twice.",
    )


WAYS_OUT: Mapping[str, str] = {
    "bad_request": "Mend the key, the server or the setting that it is about",
    "content_filter": "Reword instruction and seeds, or take another teacher",
    "refusal": "Reword instruction and seeds, or take another teacher",
    "context_length": "Set few_shot or examples_per_call lower, or shorten the instruction",
    "truncated": "Raise max_output_tokens or lower examples_per_call",
    "timeout": "Raise timeout_seconds or lower max_concurrency",
    "malformed": "Set structured_output to another form, or take a stronger teacher",
    "label_disagreement": "Make the instruction say what decides between the labels",
    "judge": "Mend judge_rubric, or the instruction by which rows are made",
    "verifier": "Mend the verifier, or the instruction by which rows are made",
}


def _first_calls(calls: Sequence[GenerationCall], rows: int) -> Sequence[GenerationCall]:
    """As many of `calls`, from the first, as bring so many rows."""
    brought = 0
    for place, call in enumerate(calls, start=1):
        brought += len(call.slots)
        if brought >= rows:
            return calls[:place]
    return calls
