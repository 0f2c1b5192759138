"""A run without a single call: the stages go on for as long as the journal has the answers.

The stages can't tell it from a real one. At the first call that would have to
be made it ends, and what is known by then says what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nanodistill.records import Message, Request
from nanodistill.synthesis.teaching import Teaching
from nanodistill.teacher.account import Account
from nanodistill.teacher.answers import Answer, Failure
from nanodistill.teacher.chains import Lost
from nanodistill.teacher.engine import Survey


class CurtainFalls(Exception):
    """A call would have to be made: of which stage, and what is in the journal of its batch."""

    def __init__(self, stage: str, survey: Survey) -> None:
        super().__init__(stage)
        self.stage = stage
        self.survey = survey


class Rehearsal:
    """A teacher that answers from the journal alone, and counts calls by stage.

    `reused` are those that it answered, `unread` those of them that nobody has read yet, and
    `to_ask` those of the batches at which it could not go on.
    """

    def __init__(self, teacher: Teaching) -> None:
        self._teacher = teacher
        self.reused: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.to_ask: Counter[str] = Counter()

    @property
    def account(self) -> Account:
        return self._teacher.account

    @property
    def lost(self) -> Mapping[str, Lost]:
        return self._teacher.lost

    def request(
        self,
        stage: str,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        ordinal: int = 0,
    ) -> Request:
        return self._teacher.request(stage, messages, schema=schema, params=params, ordinal=ordinal)

    async def settle(self, requests: Iterable[Request]) -> None:
        """Go on if the journal has them all.

        Raises:
            CurtainFalls: it has not.
        """
        first = next(iter(requests), None)
        if first is None:
            return
        survey = await self._teacher.survey(requests)
        self.reused[first.stage] += survey.reused
        self.unread[first.stage] += survey.reused
        self.to_ask[first.stage] += survey.to_ask
        if survey.to_ask:
            raise CurtainFalls(first.stage, survey)

    def outcomes(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        for outcome in self._teacher.outcomes(requests):
            self.unread[outcome.request.stage] -= 1
            yield outcome

    async def survey(self, requests: Iterable[Request]) -> Survey:
        return await self._teacher.survey(requests)
