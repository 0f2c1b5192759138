"""Answers become predictions, predictions become figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanodistill.evaluation.eval_set import EvalExample
from nanodistill.evaluation.external_answers import ExternalAnswer
from nanodistill.evaluation.results import ModelScore, Prediction, Speed
from nanodistill.evaluation.worker import GeneratedAnswer
from nanodistill.metrics.output_parser import parse_output
from nanodistill.metrics.row_metrics import ExactMatch, Metric, score_rows
from nanodistill.stats import estimate
from nanodistill.thinking import Format


@dataclass(frozen=True)
class Scorer:
    """Reads and scores every model's answers to the same rows in the same way."""

    metric: Metric
    form: Format
    rows: Sequence[EvalExample]

    def generated(self, model: str, answers: Sequence[GeneratedAnswer]) -> list[Prediction]:
        """Predictions from generated answers, one for each row in order."""
        readings = [
            parse_output(answer.text, answer.finish_reason, self.form) for answer in answers
        ]
        scores = self._scores([reading.output for reading in readings])
        return [
            Prediction(
                row=row,
                model=model,
                text=answer.text,
                thinking=reading.thinking,
                output=reading.output,
                score=score,
                finish_reason=answer.finish_reason,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
            )
            for row, answer, reading, score in zip(
                self.rows, answers, readings, scores, strict=True
            )
        ]

    def given(self, model: str, answers: Mapping[str, ExternalAnswer]) -> list[Prediction]:
        """Predictions from answers by row id; a row without one counts as unreadable."""
        found = [answers.get(row.id, ExternalAnswer(row.id, None)) for row in self.rows]
        scores = self._scores([answer.output for answer in found])
        return [
            Prediction(
                row=row,
                model=model,
                text=answer.text or answer.output or "",
                thinking=answer.thinking,
                output=answer.output,
                score=score,
                finish_reason="stop",
                prompt_tokens=None,
                completion_tokens=None,
            )
            for row, answer, score in zip(self.rows, found, scores, strict=True)
        ]

    def score(
        self,
        predictions: Sequence[Prediction],
        speed: Speed | None = None,
        usd_per_1000: float | None = None,
    ) -> ModelScore:
        """All figures of one model."""
        pairs = [(one.output, one.row.gold) for one in predictions]
        return ModelScore(
            metric=self.metric.name,
            score=estimate([one.score for one in predictions]),
            exact=estimate(score_rows(ExactMatch(), pairs)),
            unreadable=sum(one.output is None for one in predictions),
            cut_off=sum(one.finish_reason == "length" for one in predictions),
            details=self.metric.details(pairs),
            speed=speed,
            usd_per_1000=usd_per_1000,
        )

    def _scores(self, outputs: Sequence[str | None]) -> list[float]:
        golds = [row.gold for row in self.rows]
        return score_rows(self.metric, list(zip(outputs, golds, strict=True)))


def speed_of(answers: Sequence[GeneratedAnswer]) -> Speed:
    """What generating these answers took."""
    return Speed(
        answers=len(answers),
        seconds=sum(answer.seconds for answer in answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        peak_memory=max(answer.peak_memory for answer in answers),
    )
