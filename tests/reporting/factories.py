"""Runs to report, written by the code of each room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.drafts import draft, trace

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, write_version
from nanodistill.evaluation.eval_models import BASE, FEW_SHOT, STUDENT, TEACHER
from nanodistill.evaluation.eval_set import EvalExample, ExternalAnswer, eval_set
from nanodistill.evaluation.results import EvaluationResult, Subject, save
from nanodistill.evaluation.scorer import Scorer, Speed
from nanodistill.journal import Attempt, Call, StoredResponse, open_journal
from nanodistill.metrics.metric_selection import TaskFacts, choose_metric
from nanodistill.run_dir import RunFolder, write_json
from nanodistill.stats import compare
from nanodistill.thinking import resolve_format
from nanodistill.training.metrics_log import MetricsWriter
from nanodistill.training.runs import RunEntry, make_latest, training_folder
from nanodistill.types import Completion, Rejection, Trace, Usage

Say = Callable[[int, EvalExample], str | None]
LABELS = ("animal", "plant")


def right(n: int, row: EvalExample) -> str | None:
    return row.gold


def always(said: str | None) -> Say:
    return lambda n, row: said


def mostly_right(n: int, row: EvalExample) -> str | None:
    """Wrong on every fourth row."""
    return row.gold if n % 4 else "plant" if row.gold == "animal" else "animal"


@dataclass(frozen=True)
class RunFactory:
    """A run folder whose parts are added one by one."""

    root: Path
    name: str = "words"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / self.name)

    def config(self, **fields: Any) -> DistillationConfig:
        given: dict[str, Any] = {
            "name": self.name,
            "seed": [{"input": "oak", "output": "plant"}],
            "instruction": "Say whether the word is an animal or a plant.",
            "teacher": "openai/some-teacher",
            "student": "tiny-student",
            "output_dir": self.root,
        }
        return DistillationConfig(**(given | fields))

    def add_call(self, cost: float | None = 0.25, usage: Usage | None = None) -> None:
        """One answered call in the journal."""
        usage = usage or Usage(prompt_tokens=1200, completion_tokens=340)
        attempt = Attempt(1.0, "generate", "m", "ab" * 32, "first", "answered",
                          latency=2.0, usage=usage, cost_usd=cost)  # fmt: skip
        answer = StoredResponse("ab" * 32, "generate", Completion("an answer", "stop", usage))
        with open_journal(self.run.journal) as journal:
            journal.commit([Call(attempt, answer)])

    def add_dataset(self, tests: Sequence[Trace] | int = 12, **facts: Any) -> DatasetVersion:
        rows = list(tests) if not isinstance(tests, int) else [word(n) for n in range(tests)]
        placed = [("train", trace(n)) for n in range(8)] + [
            ("valid", trace(100 + n)) for n in (1, 2)
        ]
        rejected = [Rejection(trace(300), "near_duplicate", "as 1"), Rejection(trace(301), "loop")]
        version = draft([*placed, *(("test", row) for row in rows)], rejected, **facts)  # type: ignore[list-item]
        return write_version(self.run, version)

    def add_training(
        self, dataset: DatasetVersion, run_id: str = "run1", student: str = "tiny-student",
        train_on: str = "cot", updates: int = 30,
    ) -> None:  # fmt: skip
        """The files of a finished training run."""
        folder = training_folder(self.run, run_id)
        write_json(folder.config, {"settings": {"learning_rate": 3e-4, "lora_rank": 8}})
        record = MetricsWriter(folder.metrics)
        for update in range(1, updates + 1):
            record.write("train", update, loss=3 / update, smoothed=3 / update, learning_rate=3e-4,
                         epoch=update / 10, seconds=update * 1.5, tokens_per_second=100.0,
                         memory_gb=1.5)  # fmt: skip
            if update % 10 == 0:
                record.write("valid", update, loss=2 / update, score=None, best=update <= 20)
        record.close()
        write_json(folder.result, {"rows": {"train": 8, "valid": 2, "dropped": 0}})
        entry = RunEntry(run_id, dataset.name, dataset.fingerprint, student, student, train_on)
        make_latest(self.run, entry)

    def add_evaluation(
        self, dataset: DatasetVersion, run_id: str = "run1", called: str = "tiny-student",
        metric: str = "auto", **said: Say,
    ) -> EvaluationResult:  # fmt: skip
        """An evaluation in which each model answers by its function."""
        rows = eval_set(dataset)
        facts = TaskFacts(dataset.manifest.labels, dataset.manifest.response_schema)
        choice = choose_metric(self.config(metric=metric), facts, rows.golds)
        judge = Scorer(choice.metric, resolve_format("none"), rows.rows)
        lines = {
            model: judge.external(model, {row.id: answer(model, n, row, say)
                                       for n, row in enumerate(rows.rows)})
            for model, say in said.items()
        }  # fmt: skip
        result = EvaluationResult(
            subject=Subject(run_id, called, {BASE: "sha256:base", STUDENT: "sha256:base+adapter"},
                            dataset.name, dataset.fingerprint, rows.split),
            n=len(rows.rows),
            metric=choice.metric.name,
            measure=choice.metric.measure,
            reason=choice.reason,
            max_new_tokens=12,
            models={model: judge.score(found, *speed(model)) for model, found in lines.items()},
            against={
                model: compare([one.score for one in lines[STUDENT]], [one.score for one in found])
                for model, found in lines.items() if model != STUDENT
            },
            generated=len(rows.rows),
            reused=0,
            folder=self.run.evaluation / run_id,
        )  # fmt: skip
        save(result, [line for found in lines.values() for line in found])
        return result

    def add_everything(self, tests: Sequence[Trace] | int = 12) -> None:
        """Every part."""
        self.add_call()
        dataset = self.add_dataset(tests)
        self.add_training(dataset)
        self.add_evaluation(dataset, base=always("animal"), base_few_shot=mostly_right,
                    student=mostly_right, teacher=right)  # fmt: skip


def word(n: int) -> Trace:
    return trace(
        200 + n, source="user", thinking=None, thinking_from=None, cell="", seed_ids=(),
        teacher="", request_keys=(),
    )  # fmt: skip


def answer(model: str, n: int, row: EvalExample, say: Say) -> ExternalAnswer:
    output = say(n, row)
    thinking = f"{model} thinks about row {n}." if model in (STUDENT, TEACHER) else None
    return ExternalAnswer(row.id, output, text=output or "mumble", thinking=thinking)


def speed(model: str) -> tuple[Speed | None, float | None]:
    if model == TEACHER:
        return None, 1.25
    assert model in (BASE, FEW_SHOT, STUDENT)
    return Speed(12, 3.0, 600, 40, 900_000_000), None
