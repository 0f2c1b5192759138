"""Has the missing answers generated, and keeps each as it comes.

A child that runs out of memory is started again with half the batch, from where
it was, down to single prompts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanodistill.config import DeliverySettings
from nanodistill.evaluation.answers import Answers
from nanodistill.evaluation.contenders import SHOWN_AS, Contender
from nanodistill.evaluation.endpoint import Endpoint, ask_endpoint
from nanodistill.evaluation.generator import CHILD, Generator, OutOfMemory
from nanodistill.evaluation.job import Generated, Job, Prompt, Task
from nanodistill.evaluation.prompts import JudgedRow
from nanodistill.events import Listener, Notice, Progress


@dataclass(frozen=True)
class Wanted:
    """The answers that one contender owes: a key for each row."""

    contender: Contender
    rows: Sequence[JudgedRow]
    keys: Sequence[str]

    def missing(self, answers: Answers) -> tuple[Prompt, ...]:
        """What is left to ask."""
        return tuple(
            Prompt(key, row.messages)
            for key, row in zip(self.keys, self.rows, strict=True)
            if key not in answers
        )

    def task(self, prompts: tuple[Prompt, ...]) -> Task:
        """The same for the child process."""
        contender = self.contender
        adapter = str(contender.adapter) if contender.adapter else None
        kwargs = contender.tokenizer_kwargs
        return Task(contender.model.name, adapter, contender.shots, prompts, kwargs)


def generate_missing(
    wanted: Sequence[Wanted],
    answers: Answers,
    settings: DeliverySettings,
    listen: Listener,
    command: Sequence[str] = CHILD,
) -> int:
    """Generate what `answers` lacks; how many that was.

    Raises:
        ModelError: a model or adapter can't be used.
        OutOfMemory: memory does not suffice for a single prompt.
        EndpointFailed: an endpoint did not answer.
    """
    before = len(answers)
    watch = Watch(wanted, answers, listen)
    with answers.writing():
        for one in wanted:
            if isinstance(one.contender.model, Endpoint):
                _keep(_from_endpoint(one.contender.model, one, answers, settings), answers, watch)
        local = [one for one in wanted if not isinstance(one.contender.model, Endpoint)]
        _generate_here(local, answers, settings, watch, command)
    return len(answers) - before


def _generate_here(
    wanted: Sequence[Wanted],
    answers: Answers,
    settings: DeliverySettings,
    watch: Watch,
    command: Sequence[str],
) -> None:
    batch_size = settings.eval_batch_size
    while tasks := [one.task(left) for one in wanted if (left := one.missing(answers))]:
        job = Job(tuple(tasks), settings.max_new_tokens, batch_size)
        try:
            with Generator(watch.listen, command) as generator:
                _keep(generator.run(job), answers, watch)
        except OutOfMemory:
            if batch_size == 1:
                raise
            batch_size //= 2
            said = f"out of memory; going on with batches of {batch_size}"
            watch.listen(Notice(said, "warning"))


def _from_endpoint(
    endpoint: Endpoint, one: Wanted, answers: Answers, settings: DeliverySettings
) -> Iterator[Generated]:
    prompts, at_once = one.missing(answers), settings.eval_batch_size
    return (
        ask_endpoint(endpoint, prompts, settings.max_new_tokens, at_once) if prompts else iter(())
    )


def _keep(generated: Iterator[Generated], answers: Answers, watch: Watch) -> None:
    for answer in generated:
        answers.add(answer)
        watch.saw(answer)


class Watch:
    """Tells the listener how far generation is."""

    def __init__(self, wanted: Sequence[Wanted], answers: Answers, listen: Listener) -> None:
        self._name = {key: one.contender.name for one in wanted for key in one.keys}
        self._answers = answers
        self.listen = listen
        self._begun = time.monotonic()
        self._had = self._done()

    def saw(self, answer: Generated) -> None:
        done, elapsed = self._done(), time.monotonic() - self._begun
        self.listen(
            Progress(
                "evaluate",
                done,
                len(self._name),
                "answers",
                seconds_left=elapsed / (done - self._had) * (len(self._name) - done),
                figures={
                    "model": SHOWN_AS[self._name[answer.key]],
                    "answers/s": (done - self._had) / elapsed,
                },
            )
        )

    def _done(self) -> int:
        return sum(key in self._answers for key in self._name)
