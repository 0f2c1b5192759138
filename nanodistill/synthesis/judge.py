"""A second model's word on each row, by the user's rubric.

The judge's calls go through the same engine, journal and budget as the
teacher's; they differ in the model that their requests name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.curation.response_model import object_schema
from nanodistill.engine.response_validation import Answer, Failure
from nanodistill.providers.base import Provider, Reply
from nanodistill.providers.request_params import is_transport, params_for
from nanodistill.synthesis.answers import FailedAnswer
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Request, Trace

VERDICT: Mapping[str, Any] = object_schema(
    {
        "reason": {"type": "string", "description": "What decides it, in one sentence."},
        "right": {"type": "boolean", "description": "Whether the output is right."},
    }
)


@dataclass(frozen=True)
class RoutingProvider:
    """Hands a request to the judge where it names the judge's model, else to the teacher."""

    teacher: Provider
    judge: Provider
    judge_model: str

    @property
    def endpoint(self) -> str:
        return self.teacher.endpoint

    async def complete(self, request: Request) -> Reply:
        asked = self.judge if request.model == self.judge_model else self.teacher
        return await asked.complete(request)

    async def aclose(self) -> None:
        await self.teacher.aclose()
        await self.judge.aclose()


def judge_settings(config: DistillationConfig) -> DistillationConfig:
    """The configuration as the judge's calls are made by it.

    What says how a call travels (address, key, headers) goes with the judge only if its model is
    of the teacher's provider: another one would get the teacher's key, or its server the calls.
    """
    judge = config.judge or config.teacher
    kwargs = config.litellm_kwargs
    if _provider_of(judge) != _provider_of(config.teacher):
        kwargs = {name: value for name, value in kwargs.items() if not is_transport(name)}
    return config.model_copy(
        update={
            "teacher": judge,
            "teacher_price": config.teacher_price
            if judge == config.teacher
            else config.judge_price,
            "litellm_kwargs": kwargs | config.judge_litellm_kwargs,
        }
    )


def _provider_of(model: str) -> str:
    """The provider's prefix of a model's name; "" where it has none."""
    return model.partition("/")[0] if "/" in model else ""


@dataclass(frozen=True)
class Judge:
    """Asks for verdicts and reads them."""

    task: Task
    teacher: TeacherProtocol
    model: str
    endpoint: str

    def requests(self, rows: Sequence[Trace]) -> Iterator[Request]:
        facts = {"instruction": self.task.instruction, "rubric": self.task.rubric}
        system = self.task.prompts.render("judge_system", **facts)
        for row in rows:
            asked = self.teacher.request(
                "judge",
                [
                    {"role": "system", "content": system},
                    {"role": "user", "content": f"Input:\n{row.input}\n\nOutput:\n{row.output}"},
                ],
                schema=VERDICT,
                params={"temperature": 0.0},
            )
            yield self.addressed(asked)

    def addressed(self, request: Request) -> Request:
        """A request as the judge's: its model, its endpoint, its parameters."""
        stage = {"temperature": 0.0}
        params = params_for(judge_settings(self.task.config), stage, request.ordinal)
        return replace(request, model=self.model, endpoint=self.endpoint, params=params)


def verdict_on(row: Trace, outcome: Answer | Failure) -> Trace | Rejected | FailedAnswer:
    """The row, if the judge found its output right."""
    if isinstance(outcome, Failure):
        return FailedAnswer(outcome.kind, outcome.message)
    if outcome.data["right"]:
        return replace(row, request_keys=row.request_keys + outcome.keys)
    return Rejected("judge", outcome.data["reason"])
