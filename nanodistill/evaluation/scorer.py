"""From answers to predictions, and from predictions to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanodistill.evaluation.eval_set import EvalExample, ExternalAnswer
from nanodistill.evaluation.worker import GeneratedAnswer
from nanodistill.metrics.output_parser import parse_output
from nanodistill.metrics.row_metrics import ExactMatch, Metric, score_rows
from nanodistill.stats import ScoreEstimate, estimate
from nanodistill.thinking import Format
from nanodistill.types import FinishReason


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's answer to one row, parsed and scored.

    `output` is None if the answer is unreadable; token counts are None if unknown.
    """

    row: EvalExample
    model: str
    text: str
    thinking: str | None
    output: str | None
    score: float
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Speed:
    """What generating all answers took, including answers of earlier, interrupted runs.

    `seconds` exclude loading the model; `peak_memory` is in bytes, by MLX's count.
    """

    answers: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    peak_memory: int

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second; a prefix that prompts share is read only once."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    @property
    def answers_per_second(self) -> float:
        return self.answers / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, float]:
        return {
            "seconds": self.seconds,
            "answers_per_second": self.answers_per_second,
            "tokens_per_second": self.tokens_per_second,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "peak_memory": self.peak_memory,
        }


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model's scores.

    Attributes:
        metric: name of the main metric, whose mean is `score`.
        exact: share of outputs that equal the gold answer after normalization.
        unreadable: rows whose answer could not be parsed; they score 0.
        cut_off: rows whose answer reached the length limit.
        details: further figures of the metric.
        usd_per_1000: cost of 1,000 such answers, None if unknown.
    """

    metric: str
    score: ScoreEstimate
    exact: ScoreEstimate
    unreadable: int
    cut_off: int
    details: Mapping[str, Any]
    speed: Speed | None = None
    usd_per_1000: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            **asdict(self.score),
            "exact": asdict(self.exact),
            "unreadable": self.unreadable,
            "cut_off": self.cut_off,
            "details": dict(self.details),
            "speed": self.speed.to_json() if self.speed else None,
            "usd_per_1000": self.usd_per_1000,
        }


@dataclass(frozen=True)
class Scorer:
    """Parses and scores every model's answers to the same rows in the same way."""

    metric: Metric
    thinking_format: Format
    rows: Sequence[EvalExample]

    def generated(self, model: str, answers: Sequence[GeneratedAnswer]) -> list[Prediction]:
        """Predictions from generated answers, one for each row in order."""
        parsed = [parse_output(a.text, a.finish_reason, self.thinking_format) for a in answers]
        return [
            Prediction(
                row=row,
                model=model,
                text=answer.text,
                thinking=one.thinking,
                output=one.output,
                score=self._score(one.output, row),
                finish_reason=answer.finish_reason,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
            )
            for row, answer, one in zip(self.rows, answers, parsed, strict=True)
        ]

    def external(self, model: str, answers: Mapping[str, ExternalAnswer]) -> list[Prediction]:
        """Predictions from answers by row id. A row without an answer counts as unreadable."""
        in_order = [answers.get(row.id, ExternalAnswer(row.id, None)) for row in self.rows]
        return [
            Prediction(
                row=row,
                model=model,
                text=answer.text or answer.output or "",
                thinking=answer.thinking,
                output=answer.output,
                score=self._score(answer.output, row),
                finish_reason="stop",
                prompt_tokens=None,
                completion_tokens=None,
            )
            for row, answer in zip(self.rows, in_order, strict=True)
        ]

    def _score(self, output: str | None, row: EvalExample) -> float:
        (score,) = score_rows(self.metric, [(output, row.gold)])
        return score

    def score(
        self,
        predictions: Sequence[Prediction],
        speed: Speed | None = None,
        usd_per_1000: float | None = None,
    ) -> ModelScore:
        """All scores of one model."""
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


def speed_of(answers: Sequence[GeneratedAnswer]) -> Speed:
    """What generating these answers took."""
    return Speed(
        answers=len(answers),
        seconds=sum(answer.seconds for answer in answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        peak_memory=max(answer.peak_memory for answer in answers),
    )
