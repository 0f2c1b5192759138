"""Ask the student one input, with the prompt that evaluation and training use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class StudentAnswer:
    """A model's answer. `output` is the whole text if it is not `readable`."""

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


@dataclass(frozen=True)
class PredictionSpec:
    """How a model is asked, and how its answers are parsed."""

    name: Literal["student", "base"]
    adapter: str | None
    instruction: str
    thinking_format: Format


class Student:
    """The latest student of a run, or its base, kept loaded between calls.

    Raises:
        InputError: there is no trained student, and `base` is false.

    Example:
        with Student(config, RunFolder(config.run_folder)) as student:
            print(student.ask("I was charged twice").output)
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
        self._tokenizer_kwargs = tokenizer_settings(config.tokenizer_kwargs, model.path, run)
        self._spec = (
            _base_spec(config, run) if base else _student_spec(config, run, model, on_event)
        )
        self._worker = GenerationWorker(on_event)

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.__exit__(*error)

    def ask(self, text: str) -> StudentAnswer:
        """The answer to one input.

        Raises:
            ModelError: the model or its adapter can't be used.
        """
        messages = (
            Message(role="system", content=self._spec.instruction),
            Message(role="user", content=text),
        )
        task = GenerationTask(
            model=self._config.student,
            adapter=self._spec.adapter,
            shots=(),
            prompts=(TaskPrompt("", messages),),
            tokenizer_kwargs=self._tokenizer_kwargs,
        )
        job = GenerationJob((task,), self._config.max_new_tokens, batch_size=1)
        (answer,) = self._worker.run(job)
        parsed = parse_output(answer.text, answer.finish_reason, self._spec.thinking_format)
        return StudentAnswer(
            text=answer.text,
            thinking=parsed.thinking,
            output=answer.text if parsed.output is None else parsed.output,
            readable=parsed.output is not None,
            model=self._spec.name,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            seconds=answer.seconds,
        )


def ask(
    config: DistillationConfig,
    run: RunFolder,
    text: str,
    *,
    base: bool = False,
    on_event: Listener = ignore,
) -> StudentAnswer:
    """The student's answer to `text`, or the untrained model's with `base`.

    Raises:
        InputError: there is no trained student, and `base` is false.
        ModelError: the model or its adapter can't be used.
    """
    with Student(config, run, base=base, on_event=on_event) as student:
        return student.ask(text)


def _student_spec(
    config: DistillationConfig, run: RunFolder, model: ResolvedModel, on_event: Listener
) -> PredictionSpec:
    student = find_student_ref(config, run, model, None, on_event)
    dataset = dataset_of(student.entry, run) if student.entry else open_version(None, run)
    manifest = dataset.manifest
    return PredictionSpec(
        "student",
        str(student.eval_model.adapter),
        manifest.instruction,
        output_format(manifest.thinking_format, student.train_on, config.thinking_format),
    )


def _base_spec(config: DistillationConfig, run: RunFolder) -> PredictionSpec:
    """The base as the latest dataset version prompts it, or the run file without a version."""
    try:
        manifest = open_version(None, run).manifest
    except NoDatasetError:
        thinking_format = resolve_format(config.thinking_format)
        return PredictionSpec("base", None, config.instruction, thinking_format)
    thinking_format = output_format(
        manifest.thinking_format, config.train_on, config.thinking_format
    )
    return PredictionSpec("base", None, manifest.instruction, thinking_format)
