"""From good inputs to finished rows: answers, the check of labels, the row steps, the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from anyio import to_thread

from nanodistill.curation.filter_pipeline import FilterPipeline, Rejected
from nanodistill.curation.labels import match_label
from nanodistill.synthesis.answers import AnswerRequester, FailedAnswer, ParsedAnswer, resolve
from nanodistill.synthesis.judge import Judge, verdict_on
from nanodistill.synthesis.ledger import Ledger, SlottedRow
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Rejection, Trace

ANSWERS, LABELS, JUDGE = "answers", "labels confirmed", "judge"

Ending = Trace | Rejected | FailedAnswer


@dataclass(frozen=True)
class AnswerStage:
    """Takes placed inputs to the end of their way."""

    task: Task
    teacher: TeacherProtocol
    requester: AnswerRequester
    sieve: FilterPipeline
    judge: Judge | None

    async def finish(self, placed: Sequence[SlottedRow], ledger: Ledger) -> list[SlottedRow]:
        """The rows that are good. All others are in the ledger."""
        if self.task.asks_answers:
            placed = await self._answered(placed, ledger)
        elif self.task.config.check_labels and self.task.labels:
            placed = await self._confirmed(placed, ledger)
        placed = await to_thread.run_sync(self._sifted, placed, ledger)
        if self.judge is not None:
            placed = await self._judged(placed, self.judge, ledger)
        return list(placed)

    async def _answered(self, placed: Sequence[SlottedRow], ledger: Ledger) -> list[SlottedRow]:
        requests = list(self.requester.requests([one.row.input for one in placed]))
        await self.teacher.complete_all(requests)
        said = self.requester.said(requests, each=self.requester.samples)

        def endings() -> Iterator[Ending]:
            for one, answers in zip(placed, said, strict=True):
                yield self._as_intended(one, resolve(self.task, one.row, answers))

        return await to_thread.run_sync(_settled, ANSWERS, placed, endings, ledger)

    def _as_intended(self, placed: SlottedRow, ending: Ending) -> Ending:
        """With `check_labels`, a row whose answer is another label than intended is refused."""
        label = placed.slot.cell.label
        differs = isinstance(ending, Trace) and label is not None and ending.output != label
        if self.task.config.check_labels and differs and isinstance(ending, Trace):
            return disagreement(ending.output, label)
        return ending

    async def _confirmed(self, placed: Sequence[SlottedRow], ledger: Ledger) -> list[SlottedRow]:
        """Ask for the label alone, and refuse the rows for which another one comes."""
        requests = list(self.requester.check_requests([one.row.input for one in placed]))
        await self.teacher.complete_all(requests)
        said = self.requester.said(requests, each=1)

        def endings() -> Iterator[Ending]:
            for one, (answer,) in zip(placed, said, strict=True):
                yield self._confirmation(one, answer)

        return await to_thread.run_sync(_settled, LABELS, placed, endings, ledger)

    def _confirmation(self, placed: SlottedRow, answer: ParsedAnswer | FailedAnswer) -> Ending:
        if isinstance(answer, FailedAnswer):
            return answer
        if match_label(answer.output, self.task.labels) == placed.row.output:
            return replace(placed.row, request_keys=placed.row.request_keys + answer.keys)
        return disagreement(answer.output, placed.row.output)

    def _sifted(self, placed: Sequence[SlottedRow], ledger: Ledger) -> list[SlottedRow]:
        good = []
        for one in placed:
            row = self.sieve(one.row)
            if isinstance(row, Rejection):
                ledger.reject(row)
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


def disagreement(said: str, label: str | None) -> Rejected:
    return Rejected("label_disagreement", f"written for '{label}', answered '{said[:80]}'")


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
            ledger.reject(Rejection(one.row, ending.reason, ending.detail))
            ledger.steps.drop(step, ending.reason)
        else:
            good.append(SlottedRow(one.slot, ending))
    return good
