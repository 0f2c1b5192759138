"""The teacher sits the student's test: its own answers to the rows that a student is judged by.

They are bought like all answers of a teacher, through the run's journal, its
limits and its budget, and so only once. What is asked comes from the dataset
version (instruction, labels, thinking format); no seed file is opened. The gold
outputs are not shown, and the temperature is 0 unless `litellm_kwargs` say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread

from nanodistill.config import DistillationConfig
from nanodistill.curation.response_model import load_response
from nanodistill.dataset import DatasetVersion
from nanodistill.engine.stop_signal import StopSignal
from nanodistill.errors import knowing
from nanodistill.events import Listener, Notice, ignore
from nanodistill.formatting import dollars
from nanodistill.journal import Journal
from nanodistill.prompts import make_prompts
from nanodistill.providers.base import Provider
from nanodistill.run_dir import RunFolder
from nanodistill.synthesis.answers import FailedAnswer, ParsedAnswer
from nanodistill.synthesis.seed_agreement import none_answered
from nanodistill.synthesis.synthesis_context import SynthesisContext, open_context
from nanodistill.synthesis.task import Task
from nanodistill.thinking import FORMATS, resolve_format

STAGE = "test"
"""What these calls are called in the ledger. They are no part of what a dataset costs."""


@dataclass(frozen=True)
class TestSetAnswers:
    """What the teacher said to one input: None where it refused or could not be read.

    `cost_usd` is for all calls that it took, None where no price is known.
    """

    output: str | None
    thinking: str | None
    cost_usd: float | None


async def answer_test_set(
    config: DistillationConfig,
    dataset: DatasetVersion,
    inputs: Sequence[str],
    *,
    provider: Provider | None = None,
    on_event: Listener = ignore,
    stop: StopSignal | None = None,
) -> list[TestSetAnswers]:
    """The teacher's answers to `inputs`, in their order.

    Args:
        provider: answers in place of the teacher that the configuration names.
        stop: asks the run to stop; without one, Ctrl-C and SIGTERM do.

    Raises:
        ConfigError: the teacher can't be used; nothing was spent.
        RunLockedError: a synthesis of this run is on.
        RunIncompleteError: stopped early (budget, key, quota, no answer at all, Ctrl-C); what was
            answered is
            kept.
    """
    task = await to_thread.run_sync(_task_of, config, dataset)
    run = RunFolder(config.run_folder)
    with run.locked("synth"):
        async with open_context(task, run, on_event, provider=provider, stop=stop) as bench:
            with knowing(lambda: _spent(bench)):
                return await _answered(bench, inputs)


def _spent(bench: SynthesisContext) -> dict[str, object]:
    """What this session's calls came to."""
    account = bench.teacher.account
    calls = {"made": account.made, "reused": account.reused, "retried": account.retried}
    usage = {
        "prompt_tokens": account.usage.prompt_tokens,
        "completion_tokens": account.usage.completion_tokens,
    }
    return {"calls": calls, "usage": usage, "cost_usd": account.known_cost}


def _task_of(config: DistillationConfig, dataset: DatasetVersion) -> Task:
    """The dataset's task, without any rows."""
    facts = dataset.manifest
    response = load_response(config.response_model)
    form = resolve_format(
        facts.thinking_format if facts.thinking_format in FORMATS else config.thinking_format
    )
    labels = facts.labels or ()
    asked = config.model_copy(update={"instruction": facts.instruction, "judge": None})
    return Task(
        config=asked,
        seeds=(),
        test=(),
        given=(),
        labels=labels,
        response=response,
        form=form,
        prompts=make_prompts(
            config.prompt_templates,
            chat=config.generation == "chat",
            labels=bool(labels) and config.coverage,
        ),
        parser=None,
        verifier=None,
        rubric="",
        all_seeds=0,
    )


async def _answered(bench: SynthesisContext, inputs: Sequence[str]) -> list[TestSetAnswers]:
    requester = bench.requester
    requests = list(requester.blind_requests(inputs, stage=STAGE))
    survey = await bench.teacher.survey(requests)
    bench.on_event(
        Notice(
            f"asking {bench.task.config.teacher} the same {len(inputs)} rows: "
            f"{survey.reused} answers are kept, {survey.to_ask} to ask{_price(survey.cost_usd)}"
        )
    )
    await bench.teacher.complete_all(requests)
    said = await to_thread.run_sync(lambda: [one for (one,) in requester.said(requests, each=1)])
    _tell_of_lost(bench, said)
    return await to_thread.run_sync(lambda: [_examined(bench.journal, one) for one in said])


def _price(cost: float | None) -> str:
    return ", the price is unknown" if cost is None else f", about {dollars(cost)}"


def _tell_of_lost(bench: SynthesisContext, said: Sequence[ParsedAnswer | FailedAnswer]) -> None:
    lost = [one for one in said if isinstance(one, FailedAnswer)]
    if lost and len(lost) == len(said):
        raise none_answered("rows", lost)
    if lost:
        kinds = ", ".join(sorted({one.kind for one in lost}))
        what = f"{len(lost)} of {len(said)} answers of the teacher failed and count as wrong"
        bench.on_event(Notice(f"{what}: {kinds}", "warning"))


def _examined(journal: Journal, said: ParsedAnswer | FailedAnswer) -> TestSetAnswers:
    if isinstance(said, FailedAnswer):
        return TestSetAnswers(None, None, None)
    responses = journal.responses(said.keys).values()
    costs = [one.completion.cost_usd for one in responses if one.completion is not None]
    known = [cost for cost in costs if cost is not None]
    cost = sum(known) if len(known) == len(costs) else None
    return TestSetAnswers(said.output or None, said.thinking, cost)
