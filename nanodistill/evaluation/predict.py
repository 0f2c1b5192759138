"""One question to the student, asked exactly as the evaluation and the training rows ask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self

from nanodistill.config import DistillationConfig
from nanodistill.dataset import open_version
from nanodistill.errors import NoDatasetError
from nanodistill.evaluation.answer_generation import GenerationWorker
from nanodistill.evaluation.eval_models import dataset_of, find_student_ref
from nanodistill.evaluation.worker import GenerationJob, GenerationTask, TaskPrompt
from nanodistill.events import Listener, ignore
from nanodistill.metrics.output_parser import output_format, parse_output
from nanodistill.models.resolve import ResolvedModel
from nanodistill.run_dir import RunFolder
from nanodistill.thinking import Format, resolve_format
from nanodistill.training.student_identity import find_student, tokenizer_settings
from nanodistill.types import Message

KEY = "asked"


@dataclass(frozen=True, slots=True)
class StudentAnswer:
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
    """The latest student of a run, or its base, kept loaded: `with Student(…) as student:`.

    Raises:
        InputError: there is no trained student, and `base` was not asked for.
    """

    def __init__(
        self,
        config: DistillationConfig,
        run: RunFolder,
        *,
        base: bool = False,
        on_event: Listener = ignore,
    ) -> None:
        self._config = config
        model = find_student(config, run, on_event)
        self._tokenizer = tokenizer_settings(config.tokenizer_kwargs, model.path, run)
        self._role = (
            _base_role(config, run) if base else _student_role(config, run, model, on_event)
        )
        self._generator = GenerationWorker(on_event)

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

    def ask(self, text: str) -> StudentAnswer:
        """The answer to one input.

        Raises:
            ModelError: the model or its adapter can't be used.
        """
        messages = (
            Message(role="system", content=self._role.instruction),
            Message(role="user", content=text),
        )
        task = GenerationTask(
            model=self._config.student,
            adapter=self._role.adapter,
            shots=(),
            prompts=(TaskPrompt(KEY, messages),),
            tokenizer_kwargs=self._tokenizer,
        )
        job = GenerationJob((task,), self._config.max_new_tokens, batch_size=1)
        (generated,) = self._generator.run(job)
        reading = parse_output(generated.text, generated.finish_reason, self._role.form)
        return StudentAnswer(
            text=generated.text,
            thinking=reading.thinking,
            output=generated.text if reading.output is None else reading.output,
            readable=reading.output is not None,
            model=self._role.name,
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
    on_event: Listener = ignore,
) -> StudentAnswer:
    """The student's answer to `text`; the untrained model's with `base`."""
    with Student(config, run, base=base, on_event=on_event) as student:
        return student.ask(text)


@dataclass(frozen=True)
class PredictionSpec:
    """A model as it is asked: its adapter, the instruction, and how its answers are read."""

    name: Literal["student", "base"]
    adapter: str | None
    instruction: str
    form: Format


def _student_role(
    config: DistillationConfig, run: RunFolder, model: ResolvedModel, on_event: Listener
) -> PredictionSpec:
    found = find_student_ref(config, run, model, None, on_event)
    manifest = (dataset_of(found.entry, run) if found.entry else open_version(None, run)).manifest
    return PredictionSpec(
        "student",
        str(found.contender.adapter),
        manifest.instruction,
        output_format(manifest.thinking_format, found.train_on, config.thinking_format),
    )


def _base_role(config: DistillationConfig, run: RunFolder) -> PredictionSpec:
    """The base as the latest dataset version has it asked, or the run file if there is none."""
    try:
        manifest = open_version(None, run).manifest
    except NoDatasetError:
        form = resolve_format(config.thinking_format)
        return PredictionSpec("base", None, config.instruction, form)
    form = output_format(manifest.thinking_format, config.train_on, config.thinking_format)
    return PredictionSpec("base", None, manifest.instruction, form)
