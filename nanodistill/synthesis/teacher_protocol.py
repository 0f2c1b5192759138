"""What the stages need of a teacher. `teacher.engine.Teacher` is one; planning has another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from nanodistill.engine.response_index import FailedRequest
from nanodistill.engine.response_validation import Answer, Failure
from nanodistill.engine.teacher import CostSurvey
from nanodistill.engine.usage import UsageStats
from nanodistill.types import Message, Request


class TeacherProtocol(Protocol):
    """Makes requests, gives each an outcome, and hands the outcomes back in order."""

    @property
    def account(self) -> UsageStats: ...

    @property
    def lost(self) -> Mapping[str, FailedRequest]: ...

    def request(
        self,
        stage: str,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        ordinal: int = 0,
    ) -> Request: ...

    async def complete_all(self, requests: Iterable[Request]) -> None: ...

    def results(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]: ...

    async def survey(self, requests: Iterable[Request]) -> CostSurvey: ...
