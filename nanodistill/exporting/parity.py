"""The parity gate: an export is scored on the rows that the student was evaluated on.

Fusing rounds, and quantizing may erase what was learned (a small change vanishes between two steps
of four bits). So an export replaces nothing before it has answered the same prompts as the adapter
on its base, greedily, with the same parser and metric. Losing more than `export_tolerance` points
is a failure. Answers are kept like any evaluation's: exporting again generates nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from nanodistill.config import DistillationConfig
from nanodistill.evaluation.answer_generation import AnswerCache, PendingAnswers, generate_missing
from nanodistill.evaluation.eval_models import STUDENT, EvalModel
from nanodistill.evaluation.eval_set import eval_set
from nanodistill.evaluation.scorer import Prediction, Scorer
from nanodistill.evaluation.worker import GeneratedAnswer
from nanodistill.events import Event, Listener, Progress
from nanodistill.exporting import llama_cpp
from nanodistill.exporting.trained_adapter import TrainedAdapter
from nanodistill.metrics.metric_selection import TaskFacts, choose_metric
from nanodistill.metrics.output_parser import output_format
from nanodistill.models.resolve import resolve_model
from nanodistill.run_dir import RunFolder


@dataclass(frozen=True, slots=True)
class Parity:
    """The scores of adapter and exported model on the same `n` rows, in points of 100.

    `same` is how many of the answers are equal, letter for letter; `scored_in` the
    program that answered for the exported model.
    """

    on: Literal["test", "valid"]
    n: int
    measure: str
    adapter: float
    exported: float
    same: int
    tolerance: float
    scored_in: Literal["mlx", "llama.cpp"]

    @property
    def lost(self) -> float:
        """Points lost; below zero where the exported model did better."""
        return self.adapter - self.exported

    @property
    def holds(self) -> bool:
        return self.lost <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "lost": self.lost}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{name: held for name, held in value.items() if name != "lost"})

    def __str__(self) -> str:
        change = "nothing lost" if self.lost <= 0 else f"{self.lost:.1f} points lost"
        return (
            f"{self.measure} {self.exported:.1f} against {self.adapter:.1f} with the adapter on "
            f"{self.n} {self.on} rows ({change}, {self.same} of {self.n} answers the same, "
            f"in {self.scored_in})"
        )


class ParityCheck:
    """Scores exported models against the adapter. Raises InputError if there are no rows."""

    def __init__(
        self, config: DistillationConfig, run: RunFolder, source: TrainedAdapter, on_event: Listener
    ) -> None:
        self._config = config
        self._run = run
        self._source = source
        self._listen = on_event
        manifest = source.dataset.manifest
        self._judged = eval_set(source.dataset)
        facts = TaskFacts(manifest.labels, manifest.response_schema)
        self._metric = choose_metric(config, facts, self._judged.golds).metric
        form = output_format(manifest.thinking_format, source.train_on)
        self._judge = Scorer(self._metric, form, self._judged.rows)

    def check(self, folder: Path) -> Parity:
        """How the model in `folder` does against the adapter, in MLX."""
        kwargs = self._source.tokenizer_kwargs
        exported = EvalModel(STUDENT, resolve_model(str(folder)), tokenizer_kwargs=kwargs)
        by_adapter, by_exported = self._answers(self._adapter, exported)
        return self._compared(by_adapter, by_exported, "mlx")

    def check_in_llamacpp(self, file: Path) -> Parity:
        """How a GGUF file does against the adapter, in llama.cpp."""
        (adapter,) = self._answers(self._adapter)
        prompts = [row.messages for row in self._judge.rows]
        found = llama_cpp.ask(file, prompts, self._config.max_new_tokens, self._listen)
        generated = [
            GeneratedAnswer(key="", seconds=0.0, peak_memory=0, **asdict(each)) for each in found
        ]
        return self._compared(adapter, self._judge.generated(STUDENT, generated), "llama.cpp")

    @property
    def _adapter(self) -> EvalModel:
        source = self._source
        return EvalModel(
            STUDENT, source.base, source.adapter, tokenizer_kwargs=source.tokenizer_kwargs
        )

    def _compared(
        self,
        adapter: Sequence[Prediction],
        exported: Sequence[Prediction],
        program: Literal["mlx", "llama.cpp"],
    ) -> Parity:
        return Parity(
            on=self._judged.split,
            n=len(adapter),
            measure=self._metric.measure,
            adapter=100 * self._judge.score(adapter).score.value,
            exported=100 * self._judge.score(exported).score.value,
            same=sum(a.text == b.text for a, b in zip(adapter, exported, strict=True)),
            tolerance=self._config.export_tolerance,
            scored_in=program,
        )

    def _answers(self, *contenders: EvalModel) -> list[list[Prediction]]:
        rows, limit = self._judged.rows, self._config.max_new_tokens
        wanted = [PendingAnswers(one, rows, one.keys(rows, limit)) for one in contenders]
        with self._run.locked("eval"):
            answers = AnswerCache(self._run.evaluation / "answers.jsonl")
            generate_missing(wanted, answers, self._config, self._progress)
        return [
            self._judge.generated(one.eval_model.name, [answers[key] for key in one.keys])
            for one in wanted
        ]

    def _progress(self, event: Event) -> None:
        """What the loader says of folders that have no name yet is of no use to anybody."""
        if isinstance(event, Progress):
            self._listen(event)
