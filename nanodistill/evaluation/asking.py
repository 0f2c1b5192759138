"""One question to the student, asked exactly as the evaluation and the training rows ask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self

from nanodistill.config import DistillationConfig
from nanodistill.dataset import open_version
from nanodistill.errors import NoDataset
from nanodistill.evaluation.generator import Generator
from nanodistill.evaluation.job import Job, Prompt, Task
from nanodistill.evaluation.reading import output_format, read
from nanodistill.evaluation.trained import latest_trained
from nanodistill.events import Listener, silent
from nanodistill.records import Message
from nanodistill.runfolder import RunFolder

KEY = "asked"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered. Where it can't be read, `output` is the whole text."""

    text: str
    thinking: str | None
    output: str
    readable: bool
    model: Literal["student", "base"]
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Student:
    """The latest student of a run, or its base, loaded and ready: `with Student(…) as student:`.

    Raises (on entering):
        InputError: there is no trained student, and `base` was not asked for.
    """

    def __init__(
        self,
        config: DistillationConfig,
        run: RunFolder,
        *,
        base: bool = False,
        listen: Listener = silent,
    ) -> None:
        self._config = config
        self._adapter = None if base else str(latest_trained(run).adapter)
        instruction, thinking_format = _task(config, run)
        self._instruction = instruction
        self._form = output_format(thinking_format, config.train_on)
        self._generator = Generator(listen)

    def __enter__(self) -> Self:
        self._generator.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._generator.__exit__(kind, error, trace)

    def ask(self, text: str) -> Answer:
        """The answer to one input.

        Raises:
            ModelError: the model or its adapter can't be used.
        """
        messages = (
            Message(role="system", content=self._instruction),
            Message(role="user", content=text),
        )
        task = Task(self._config.student, self._adapter, (), (Prompt(KEY, messages),))
        job = Job((task,), self._config.max_new_tokens, batch_size=1)
        (generated,) = self._generator.run(job)
        reading = read(generated.text, generated.finish_reason, self._form)
        return Answer(
            text=generated.text,
            thinking=reading.thinking,
            output=generated.text if reading.output is None else reading.output,
            readable=reading.output is not None,
            model="student" if self._adapter else "base",
            prompt_tokens=generated.prompt_tokens,
            completion_tokens=generated.completion_tokens,
            seconds=generated.seconds,
        )


def ask(
    config: DistillationConfig,
    run: RunFolder,
    text: str,
    *,
    base: bool = False,
    listen: Listener = silent,
) -> Answer:
    """The student's answer to `text`; the untrained model's with `base`."""
    with Student(config, run, base=base, listen=listen) as student:
        return student.ask(text)


def _task(config: DistillationConfig, run: RunFolder) -> tuple[str, str]:
    """Instruction and thinking format of the latest dataset version, else of the run file."""
    try:
        manifest = open_version(None, run).manifest
    except NoDataset:
        return config.instruction, str(config.thinking_format)
    return manifest.instruction, manifest.thinking_format
