"""The task score of the validation rows: what `best_by = "score"` goes by.

The student answers each row's prompt, greedily, and the answers are read and
judged as the evaluation does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from nanodistill.config import DeliverySettings
from nanodistill.config.identity import plain_value
from nanodistill.metrics.metric_selection import TaskFacts, choose_metric
from nanodistill.metrics.output_parser import output_format, parse_output
from nanodistill.metrics.row_metrics import Metric, score_rows
from nanodistill.thinking import FORMATS, Format

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.dataset import DatasetVersion
    from nanodistill.models.loading import LoadedModel
    from nanodistill.training.tokenize import TokenRows


@dataclass(frozen=True)
class Scoring:
    """How answers are read and judged, as JSON can hold it; `golds` are the rows' outputs."""

    metric: str
    numeric_tolerance: float
    labels: tuple[str, ...] | None
    schema: Mapping[str, Any] | None
    thinking_format: str
    train_on: Literal["cot", "answer"]
    max_new_tokens: int
    batch_size: int
    golds: tuple[str, ...]

    @classmethod
    def of(
        cls, config: DistillationConfig, dataset: DatasetVersion, rows: Iterable[int]
    ) -> Scoring:
        """The scoring of the validation rows of these numbers.

        Raises:
            ConfigError: metric or thinking format is nothing that another process can find.
            InputError: the metric does not fit the rows.
        """
        golds = [row["output"] for row in dataset.rows("valid")]
        own = dataset.manifest.thinking_format not in FORMATS
        scoring = cls(
            metric=plain_value(config.metric),
            numeric_tolerance=config.numeric_tolerance,
            labels=dataset.manifest.labels,
            schema=dataset.manifest.response_schema,
            thinking_format=plain_value(config.thinking_format)
            if own
            else dataset.manifest.thinking_format,
            train_on=config.train_on,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.eval_batch_size,
            golds=tuple(golds[row] for row in rows),
        )
        scoring.judge()
        scoring.form()
        return scoring

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scoring:
        labels = value["labels"]
        return cls(
            **{
                **value,
                "golds": tuple(value["golds"]),
                "labels": None if labels is None else tuple(labels),
            }
        )

    def judge(self) -> Metric:
        settings = DeliverySettings(metric=self.metric, numeric_tolerance=self.numeric_tolerance)
        return choose_metric(settings, TaskFacts(self.labels, self.schema), self.golds).metric

    def form(self) -> Format:
        return output_format(self.thinking_format, self.train_on)


def scoring_identity(config: DistillationConfig, dataset: DatasetVersion) -> dict[str, Any]:
    """What decides a score besides the dataset, which holds golds, labels and schema."""
    return {
        "metric": plain_value(config.metric),
        "numeric_tolerance": config.numeric_tolerance,
        "thinking_format": dataset.manifest.thinking_format,
        "max_new_tokens": config.max_new_tokens,
    }


class Scorer:
    """Scores a model as it is being trained."""

    def __init__(self, loaded: LoadedModel, rows: TokenRows, scoring: Scoring) -> None:
        self._loaded = loaded
        self._scoring = scoring
        self._judge, self._form = scoring.judge(), scoring.form()
        self._prompts = [rows[row][: rows.prompts[row]].tolist() for row in range(len(rows))]

    def __call__(self) -> float:
        from nanodistill.models.generation import generate_batch
        from nanodistill.models.sampling import Sampling

        sampling = Sampling(max_tokens=self._scoring.max_new_tokens)
        answers = generate_batch(
            self._loaded, self._prompts, sampling, max_batch=self._scoring.batch_size
        )
        readings = [parse_output(a.text, a.finish_reason, self._form) for a in answers]
        outputs = [reading.output for reading in readings]
        return fmean(score_rows(self._judge, list(zip(outputs, self._scoring.golds, strict=True))))
