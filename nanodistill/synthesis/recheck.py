"""A second, blind answer to generated rows: how often it differs is measured label noise.

A row's first answer is the one that it was written for or that came with it. The second comes
from the same teacher, which reads nothing but the input. Where inputs were written for a label
and then answered with reasoning, that answer is the second one already, and costs nothing more.

Labels are compared as labels, structured outputs by field, and free texts by a judge where their
words differ. Rows whose answers agree get a confidence; rows whose answers differ are dropped, or
kept with the answer that two of three give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anyio import to_thread

from nanodistill.curation.agreement import compare_answers
from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.curation.labels import match_label
from nanodistill.curation.response_model import as_json, object_schema
from nanodistill.engine.response_validation import Answer
from nanodistill.synthesis.answers import AnswerRequester, FailedAnswer, ParsedAnswer
from nanodistill.synthesis.axes import DIFFICULTY, PLAIN
from nanodistill.synthesis.coverage import Slot
from nanodistill.synthesis.judge import Judge
from nanodistill.synthesis.ledger import RecheckCounts, SlottedRow
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Message, Request, Trace

COMPARISON: Mapping[str, Any] = object_schema(
    {
        "reason": {"type": "string", "description": "What decides it, in one sentence."},
        "same": {"type": "boolean", "description": "Whether both answers come to the same."},
    }
)
COMPARE_SYSTEM = (
    "You compare two answers to one input of a task. They come to the same if a user of the task "
    "could take either for the other: same facts, same decisions, nothing important in one alone. "
    "Wording and order do not matter unless the task says so.\n\nThe task:\n{instruction}"
)

TWO_OF_THREE = 2 / 3

Ending = Trace | Rejected | FailedAnswer


def rechecked_share(task: Task) -> float:
    """The share of new rows that get a second answer by a call of its own, for estimates."""
    if task.plans_labels and task.asks_answers:
        return 0.0
    if task.recheck == "all":
        return 1.0
    has_mix = task.config.generation == "structured" and DIFFICULTY not in task.config.axes
    if task.recheck == "none" or not has_mix or not task.config.coverage:
        return 0.0
    mix = task.config.difficulty_mix
    return 1 - mix.get(PLAIN, 0.0) / sum(mix.values())


@dataclass(frozen=True)
class Recheck:
    """Asks for second answers and settles what becomes of the rows."""

    task: Task
    teacher: TeacherProtocol
    requester: AnswerRequester
    judge: Judge | None
    counts: RecheckCounts

    def covers(self, slot: Slot) -> bool:
        """Whether the row of a slot is to be answered a second time."""
        if self.task.recheck == "boundary":
            return slot.cell.get(DIFFICULTY) not in (None, PLAIN)
        return self.task.recheck == "all"

    def compared_with_plan(self, slot: Slot, row: Trace) -> Ending:
        """A row that was answered after it was written for a label: the two answers compared."""
        label = slot.cell.label
        if label is None or not self.covers(slot):
            return row
        agrees = row.output == label
        self.counts.count(agrees, {})
        if agrees:
            return replace(row, confidence=1.0 if row.confidence is None else row.confidence)
        return disagreement(self.task, row.output, label)

    def requests(self, rows: Sequence[Trace]) -> list[Request]:
        """A second answer to each row: the label alone, or the whole output."""
        texts = [row.input for row in rows]
        if self.task.labels:
            return list(self.requester.check_requests(texts))
        return list(self.requester.second_requests(texts))

    async def answer_again(self, rows: Sequence[SlottedRow]) -> list[Ending]:
        """What becomes of rows by their second answers, in order; rows not covered stay."""
        covered = [one for one in rows if self.covers(one.slot)]
        if not covered or (self.task.plans_labels and self.task.asks_answers):
            return [one.row for one in rows]
        requests = self.requests([one.row for one in covered])
        seconds = await self._answers(requests)
        same = await self._same(covered, seconds)
        thirds = await self._thirds(covered, seconds, same)
        settled = {
            one.slot.number: self._settle(one.row, second, alike, thirds.get(one.slot.number))
            for one, second, alike in zip(covered, seconds, same, strict=True)
        }
        return [settled.get(one.slot.number, one.row) for one in rows]

    async def _answers(self, requests: Sequence[Request]) -> list[ParsedAnswer | FailedAnswer]:
        await self.teacher.complete_all(requests)
        answers = self.requester.said(requests, each=1)
        return await to_thread.run_sync(lambda: [answer for (answer,) in answers])

    async def _same(
        self, rows: Sequence[SlottedRow], seconds: Sequence[ParsedAnswer | FailedAnswer]
    ) -> list[bool]:
        """Whether each second answer comes to the first; free texts are put to a judge."""
        verdicts = [
            self._verdict(one.row.output, second.output)
            if isinstance(second, ParsedAnswer)
            else False
            for one, second in zip(rows, seconds, strict=True)
        ]
        unsure = [at for at, verdict in enumerate(verdicts) if verdict is None]
        judged = await self._judged(
            [(rows[at].row, seconds[at].output) for at in unsure]  # type: ignore[union-attr]
        )
        said = dict(zip(unsure, judged, strict=True))
        return [said[at] if verdict is None else verdict for at, verdict in enumerate(verdicts)]

    def _verdict(self, first: str, second: str) -> bool | None:
        """None where only a reader can tell."""
        task = self.task
        found = compare_answers(first, second, labels=task.labels, response=task.response)
        if task.labels or task.response is not None:
            return found.whole != "different"
        return True if found.whole == "same" else None

    async def _judged(self, pairs: Sequence[tuple[Trace, str]]) -> list[bool]:
        requests = [self._comparison(row, second) for row, second in pairs]
        await self.teacher.complete_all(requests)
        results = await to_thread.run_sync(lambda: list(self.teacher.results(requests)))
        return [isinstance(result, Answer) and bool(result.data["same"]) for result in results]

    def _comparison(self, row: Trace, second: str) -> Request:
        system = COMPARE_SYSTEM.format(instruction=self.task.instruction)
        user = f"Input:\n{row.input}\n\nFirst answer:\n{row.output}\n\nSecond answer:\n{second}"
        messages: list[Message] = [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
        ]
        params = {"temperature": 0.0}
        request = self.teacher.request("compare", messages, schema=COMPARISON, params=params)
        if self.judge is None:
            return request
        return self.judge.addressed(request)

    async def _thirds(
        self,
        rows: Sequence[SlottedRow],
        seconds: Sequence[ParsedAnswer | FailedAnswer],
        same: Sequence[bool],
    ) -> dict[int, ParsedAnswer | FailedAnswer]:
        """A third answer where two differ and the majority decides."""
        if self.task.config.recheck_disagreement != "majority":
            return {}
        differing = [
            one
            for one, second, alike in zip(rows, seconds, same, strict=True)
            if not alike and isinstance(second, ParsedAnswer)
        ]
        texts = [one.row.input for one in differing]
        answers = await self._answers(list(self.requester.third_requests(texts)))
        return {one.slot.number: answer for one, answer in zip(differing, answers, strict=True)}

    def _settle(
        self,
        row: Trace,
        second: ParsedAnswer | FailedAnswer,
        alike: bool,
        third: ParsedAnswer | FailedAnswer | None,
    ) -> Ending:
        if isinstance(second, FailedAnswer):
            return second
        task = self.task
        found = compare_answers(
            row.output, second.output, labels=task.labels, response=task.response
        )
        self.counts.count(alike, found.fields)
        checked = replace(row, request_keys=row.request_keys + second.keys)
        if alike:
            return replace(checked, confidence=1.0 if row.confidence is None else row.confidence)
        least = task.config.min_confidence or 0.0
        if isinstance(third, ParsedAnswer) and least <= TWO_OF_THREE:
            for candidate in (row.output, second.output):
                if self._verdict(candidate, third.output):
                    output = match_label(candidate, task.labels) if task.labels else candidate
                    kept = replace(checked, request_keys=checked.request_keys + third.keys)
                    kept = replace(kept, output=output or candidate, confidence=TWO_OF_THREE)
                    if candidate is second.output and not task.labels:
                        kept = replace(kept, thinking=second.thinking,
                                       thinking_from=second.thinking_from)  # fmt: skip
                    return kept
        return disagreement(task, second.output, row.output)


def disagreement(task: Task, second: str, first: str) -> Rejected:
    if task.labels:
        return Rejected("label_disagreement", f"written for '{first}', answered '{second[:80]}'")
    found = compare_answers(first, second, response=task.response).fields
    fields = [name for name, verdict in found.items() if verdict == "different"]
    if not fields:
        return Rejected("answer_disagreement", f"a second answer was '{second[:300]}'")
    values = [as_json(first), as_json(second)]
    told = (
        f"{name}: {' against '.join(shown(value.get(name)) for value in values)}" for name in fields
    )
    return Rejected("answer_disagreement", f"a second answer differs in {'; '.join(told)}")


def shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
