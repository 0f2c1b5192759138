"""Has the missing answers generated, and keeps each as it comes.

A child that runs out of memory is started again with half the batch, from where
it was, down to single prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from nanodistill.config import DeliverySettings
from nanodistill.evaluation.answers import Answers
from nanodistill.evaluation.contenders import SHOWN_AS, Contender
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

    def missing(self, answers: Answers) -> Task | None:
        """What is left to ask, None if nothing is."""
        prompts = [
            Prompt(key, row.messages)
            for key, row in zip(self.keys, self.rows, strict=True)
            if key not in answers
        ]
        if not prompts:
            return None
        adapter = self.contender.adapter
        return Task(
            self.contender.model.name,
            str(adapter) if adapter else None,
            self.contender.shots,
            tuple(prompts),
        )


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
    """
    before, batch_size = len(answers), settings.eval_batch_size
    while tasks := [task for one in wanted if (task := one.missing(answers)) is not None]:
        job = Job(tuple(tasks), settings.max_new_tokens, batch_size)
        try:
            with answers.writing(), Generator(listen, command) as generator:
                watch = Watch(wanted, answers, listen)
                for answer in generator.run(job):
                    answers.add(answer)
                    watch.saw(answer)
        except OutOfMemory:
            if batch_size == 1:
                raise
            batch_size //= 2
            listen(Notice(f"out of memory; going on with batches of {batch_size}", "warning"))
    return len(answers) - before


class Watch:
    """Tells the listener how far generation is."""

    def __init__(self, wanted: Sequence[Wanted], answers: Answers, listen: Listener) -> None:
        self._name = {key: one.contender.name for one in wanted for key in one.keys}
        self._answers = answers
        self._listen = listen
        self._begun = time.monotonic()
        self._had = self._done()

    def saw(self, answer: Generated) -> None:
        done, elapsed = self._done(), time.monotonic() - self._begun
        self._listen(
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
