"""Putting inputs to the teacher, blind, and making rows of its answers.

An input is put once, or `samples_per_input` times with a vote. The teacher never
sees what the answer should be, with one exception that is marked: a seed whose
answer it did not find gets its thinking explained from the answer
(`rationalized`), because the seed's output is the user's word.

Where inputs were written for a label, the row's output is the label that the
teacher gives when it reads the input: thinking and output belong together. Whether
that has to be the label it was written for is settled in `recheck`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.curation.labels import match_label
from nanodistill.curation.voting import choose
from nanodistill.engine.response_validation import LABEL_TOKENS, Answer, Failure
from nanodistill.synthesis.policy import TaskPolicy, spread
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.thinking import FORMATS, Format, without_tags
from nanodistill.types import Completion, Message, Request, ThinkingSource, Trace, canonical_json

BLIND: dict[str, Any] = {"temperature": 0.0}


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What one answer came down to."""

    output: str
    thinking: str | None
    thinking_from: ThinkingSource | None
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FailedAnswer:
    """No answer came: the class of the failed call and its message."""

    kind: str
    message: str


def answer_messages(task: Task, text: str, *, think: bool, guidance: str = "") -> list[Message]:
    """The call that puts one input to the teacher. `guidance` follows the instruction."""
    form = answer_form(task, think=think)
    instruction = f"{task.instruction}\n\n{guidance}".strip()
    if think:
        facts = {"instruction": instruction, "answer_form": form}
        system = task.prompts.render("cot_system", **facts)
    else:
        system = f"{instruction}\n\n{form}"
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


ANSWER_EXAMPLES = 4
"""Seeds that calls for answers show where outputs are open. Without any, a capable teacher can't
know the conventions that only the seeds show; they are the same in every call, so providers that
cache prefixes charge little for them."""


def answer_guidance(task: Task, policy: TaskPolicy) -> str:
    """What answers need besides the instruction: the rules, and seeds where outputs are open."""
    parts = [policy.rules_text(task.config.decision_rules)]
    if not task.labels and task.config.few_shot:
        shown = spread(task.seeds, ANSWER_EXAMPLES)
        examples = (f"Input: {seed.input}\nOutput: {seed.output}" for seed in shown)
        parts.append("\n\n".join(["Examples of right outputs:", *examples]))
    return "\n\n".join(part for part in parts if part)


def answer_form(task: Task, *, think: bool) -> str:
    """How an answer is to look."""
    parts = []
    if task.labels:
        parts.append(f"The answer is exactly one of: {', '.join(task.labels)}.")
    if task.response is not None:
        held = "`thinking`, the reasoning, and `output`, the answer" if think else "the answer"
        parts.append(f"Answer with a JSON object that holds {held}.")
    elif think:
        example = task.form.format("the reasoning", "the answer")
        parts.append(f"Write in exactly this form:\n\n{example}")
    else:
        parts.append("Answer with the output alone, nothing before or after it.")
    return "\n".join(parts)


class AnswerRequester:
    """Makes the requests that put inputs to the teacher, and reads what comes back."""

    def __init__(self, task: Task, teacher: TeacherProtocol, guidance: str = "") -> None:
        self._task = task
        self._teacher = teacher
        self._guidance = guidance

    @property
    def samples(self) -> int:
        return self._task.config.samples_per_input

    def requests(self, texts: Sequence[str]) -> Iterator[Request]:
        """The calls for the answers of some inputs, `samples` for each."""
        for text in texts:
            for sample in range(self.samples):
                yield self._request("trace", text, sample, {})

    def blind_requests(self, texts: Sequence[str], stage: str = "blind") -> Iterator[Request]:
        """One careful call for each input, to see what the teacher would say."""
        for text in texts:
            yield self._request(stage, text, 0, BLIND)

    def second_requests(self, texts: Sequence[str]) -> Iterator[Request]:
        """Another careful call for each input, apart from those that answered it before."""
        for text in texts:
            yield self._request("recheck", text, self.samples, BLIND)

    def third_requests(self, texts: Sequence[str]) -> Iterator[Request]:
        """A call that decides between two answers, at the run's temperature."""
        for text in texts:
            yield self._request("recheck", text, self.samples + 1, {})

    def check_requests(self, texts: Sequence[str]) -> Iterator[Request]:
        """One short call for each input, for the label alone."""
        for text in texts:
            messages = answer_messages(self._task, text, think=False, guidance=self._guidance)
            yield self._teacher.request(
                "check", messages, params=BLIND | {"max_tokens": LABEL_TOKENS}
            )

    def rationalize_requests(self, rows: Sequence[Trace]) -> Iterator[Request]:
        """Calls for the thinking behind outputs that are given."""
        for row in rows:
            yield self._teacher.request("rationalize", rationalize_messages(self._task, row))

    def _request(self, stage: str, text: str, ordinal: int, params: dict[str, Any]) -> Request:
        task = self._task
        return self._teacher.request(
            stage,
            answer_messages(task, text, think=task.thinks, guidance=self._guidance),
            schema=task.answer_schema,
            params=params,
            ordinal=ordinal,
        )

    def said(
        self, requests: Iterable[Request], each: int
    ) -> Iterator[list[ParsedAnswer | FailedAnswer]]:
        """What was said to each input, from settled requests, `each` to an input."""
        said: list[ParsedAnswer | FailedAnswer] = []
        for outcome in self._teacher.results(requests):
            said.append(self.read(outcome))
            if len(said) == each:
                yield said
                said = []

    def read(self, outcome: Answer | Failure) -> ParsedAnswer | FailedAnswer:
        if isinstance(outcome, Failure):
            return FailedAnswer(outcome.kind, outcome.message)
        return read_answer(self._task, outcome)


def read_answer(task: Task, answer: Answer) -> ParsedAnswer:
    """Output and thinking of an answer."""
    thinking, output = _parts(task, answer)
    if not task.thinks:
        return ParsedAnswer(output, None, None, answer.keys)
    source: ThinkingSource | None = "teacher" if thinking else None
    if not thinking and answer.completion.reasoning:
        thinking, source = answer.completion.reasoning.strip(), "native"
    return ParsedAnswer(output, thinking or None, source, answer.keys)


def _parts(task: Task, answer: Answer) -> tuple[str | None, str]:
    if task.response is None:
        return read_text(task.form, answer.completion)
    if not task.thinks:
        return None, canonical_json(answer.data)
    return answer.data["thinking"].strip(), canonical_json(answer.data["output"])


def read_text(form: Format, completion: Completion) -> tuple[str | None, str]:
    """Thinking and output of a text in `form`; tags that a model uses by itself are read too."""
    thinking, output = form.parse(completion.text)
    if thinking is None and form is not FORMATS["none"]:
        thinking, output = FORMATS["xml"].parse(completion.text)
    return thinking, output


def resolve(
    task: Task, row: Trace, said: Sequence[ParsedAnswer | FailedAnswer]
) -> Trace | Rejected | FailedAnswer:
    """The row with the answer that was given, or voted for."""
    answers = [one for one in said if isinstance(one, ParsedAnswer) and one.output]
    if not answers:
        failures = [one for one in said if isinstance(one, FailedAnswer)]
        return failures[0] if failures else Rejected("empty_output", "the answer was empty")
    outputs = [_canonical(task, one.output) for one in answers]
    schema = task.response.schema if task.response else None
    vote = choose(outputs, asked=len(said), schema=schema)
    chosen = answers[vote.winner]
    keys = tuple(key for one in answers for key in one.keys)
    return replace(
        row,
        output=outputs[vote.winner],
        thinking=chosen.thinking,
        thinking_from=chosen.thinking_from,
        confidence=vote.agreement if len(said) > 1 else None,
        request_keys=row.request_keys + keys,
    )


def _canonical(task: Task, output: str) -> str:
    return (match_label(output, task.labels) or output) if task.labels else output


def rationalize_messages(task: Task, row: Trace) -> list[Message]:
    form = "Write only the reasoning that leads from the input to the given answer."
    facts = {"instruction": task.instruction, "answer_form": form}
    user = f"{row.input}\n\nThe answer is known to be:\n{row.output}"
    return [
        {"role": "system", "content": task.prompts.render("cot_system", **facts)},
        {"role": "user", "content": user},
    ]


def read_rationale(task: Task, answer: Answer) -> str:
    """The thinking in an answer that was asked for nothing else."""
    thinking, output = read_text(task.form, answer.completion)
    return without_tags(thinking or output)
