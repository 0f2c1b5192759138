"""From good inputs to finished rows: answers, row filters, second answers, the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from anyio import to_thread

from nanodistill.curation.filter_pipeline import FilterPipeline, Rejected
from nanodistill.synthesis.answers import AnswerRequester, FailedAnswer, resolve
from nanodistill.synthesis.judge import Judge, verdict_on
from nanodistill.synthesis.ledger import Ledger, RecheckCounts, SlottedRow
from nanodistill.synthesis.recheck import Ending, Recheck, rechecked_share
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Rejection, Request, Trace

ANSWERS, SECOND_ANSWER, JUDGE = "answers", "second answer", "judge"


@dataclass(frozen=True)
class AnswerStage:
    """Takes placed inputs to the end of their way."""

    task: Task
    teacher: TeacherProtocol
    requester: AnswerRequester
    sieve: FilterPipeline
    judge: Judge | None

    @property
    def checks(self) -> tuple[str, ...]:
        """What accepted rows were checked for, as a notice says it."""
        task = self.task
        mentioned = {step.name for step in self.sieve.steps}
        checks = ["form", "length", "duplicates"]
        checks += [name for name in ("response model", "output checks", "verifier")
                   if name in mentioned]  # fmt: skip
        if task.recheck == "all":
            checks.append("a second answer to each")
        elif rechecked_share(task) or (task.recheck == "boundary" and task.plans_labels
                                       and task.asks_answers):  # fmt: skip
            checks.append("a second answer where not plain")
        if self.judge is not None:
            checks.append("the judge")
        return tuple(checks)

    def recheck_requests(self, rows: Sequence[Trace]) -> list[Request]:
        """The calls that answer some rows a second time."""
        return self._recheck(RecheckCounts()).requests(rows)

    def _recheck(self, counts: RecheckCounts) -> Recheck:
        return Recheck(self.task, self.teacher, self.requester, self.judge, counts)

    async def finish(self, placed: Sequence[SlottedRow], ledger: Ledger) -> list[SlottedRow]:
        """The rows that are good. All others are in the ledger."""
        recheck = self._recheck(ledger.recheck)
        if self.task.asks_answers:
            placed = await self._answered(placed, recheck, ledger)
        placed = await to_thread.run_sync(self._sifted, placed, ledger)
        if self.task.recheck != "none":
            endings = await recheck.answer_again(placed)
            placed = _settled(SECOND_ANSWER, placed, lambda: iter(endings), ledger)
        if self.judge is not None:
            placed = await self._judged(placed, self.judge, ledger)
        return list(placed)

    async def _answered(
        self, placed: Sequence[SlottedRow], recheck: Recheck, ledger: Ledger
    ) -> list[SlottedRow]:
        requests = list(self.requester.requests([one.row.input for one in placed]))
        await self.teacher.complete_all(requests)
        said = self.requester.said(requests, each=self.requester.samples)

        def endings() -> Iterator[Ending]:
            for one, answers in zip(placed, said, strict=True):
                ending = resolve(self.task, one.row, answers)
                if isinstance(ending, Trace):
                    ending = recheck.compared_with_plan(one.slot, ending)
                yield ending

        return await to_thread.run_sync(_settled, ANSWERS, placed, endings, ledger)

    def _sifted(self, placed: Sequence[SlottedRow], ledger: Ledger) -> list[SlottedRow]:
        good = []
        for one in placed:
            row = self.sieve(one.row)
            if isinstance(row, Rejection):
                ledger.reject(row, one.slot)
            else:
                good.append(SlottedRow(one.slot, row))
        return good

    async def _judged(
        self, placed: Sequence[SlottedRow], judge: Judge, ledger: Ledger
    ) -> list[SlottedRow]:
        requests = list(judge.requests([one.row for one in placed]))
        await self.teacher.complete_all(requests)
        results = self.teacher.results(requests)

        def endings() -> Iterator[Ending]:
            for one, outcome in zip(placed, results, strict=True):
                yield verdict_on(one.row, outcome)

        return await to_thread.run_sync(_settled, JUDGE, placed, endings, ledger)


def _settled(
    step: str,
    placed: Sequence[SlottedRow],
    endings: Callable[[], Iterator[Ending]],
    ledger: Ledger,
) -> list[SlottedRow]:
    """The rows that came through; the others are rejected or failed."""
    good = []
    ledger.steps.reach(step, len(placed))
    for one, ending in zip(placed, endings(), strict=True):
        if isinstance(ending, FailedAnswer):
            ledger.fail(one.row.cell, ending.kind, ending.message)
            ledger.steps.drop(step, ending.kind)
        elif isinstance(ending, Rejected):
            ledger.reject(Rejection(one.row, ending.reason, ending.detail), one.slot)
            ledger.steps.drop(step, ending.reason)
        else:
            good.append(SlottedRow(one.slot, ending))
    return good
