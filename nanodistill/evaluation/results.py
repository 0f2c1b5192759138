"""The comparison in words, as strong as the numbers and no stronger.

What an evaluation found, and its two files.

`results.json` holds every figure, `predictions.parquet` one line for each row
and model with what was asked, wanted and said: together all that a report, a
model card or `--json` shows. Neither holds a path of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from nanodistill.evaluation.eval_models import BASE, DISPLAY_NAMES, STUDENT, TEACHER
from nanodistill.evaluation.eval_set import EvalExample
from nanodistill.events import Table
from nanodistill.run_dir import checked, read_json, write_json
from nanodistill.stats import SIGNIFICANT, Paired, ScoreEstimate
from nanodistill.types import FinishReason

FEWEST = next(n for n in range(1, 100) if 2 / 2**n < SIGNIFICANT)
"""Rows below which no paired test of right and wrong can tell a difference."""


def describe_comparison(paired: Paired) -> str:
    """As in "ahead by 46 points (95%: 31 to 59), p < 0.001, 80 rows"."""
    rows = f"{paired.n} row{'' if paired.n == 1 else 's'}"
    found = f"{_standing(paired)}, {probability(paired.p)}"
    if paired.is_significant:
        return f"{found}, {rows}"
    return f"not distinguishable from chance on {rows}: {found}{_few(paired)}"


def points(share: float) -> str:
    """A share as points, "46" or "0.4": whole ones where they say enough."""
    value = 100 * share
    return f"{value:.1f}" if 0 < abs(value) < 1 else f"{value:.0f}"


def _standing(paired: Paired) -> str:
    interval = f"(95%: {points(paired.low)} to {points(paired.high)})"
    if paired.diff == 0:
        return f"level {interval}"
    word = "ahead" if paired.diff > 0 else "behind"
    low, high = (paired.low, paired.high) if paired.diff > 0 else (-paired.high, -paired.low)
    unit = "point" if points(abs(paired.diff)) == "1" else "points"
    return f"{word} by {points(abs(paired.diff))} {unit} (95%: {points(low)} to {points(high)})"


def probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def _few(paired: Paired) -> str:
    if paired.test == "bootstrap" or paired.n >= FEWEST:
        return ""
    return f"; fewer than {FEWEST} rows can show no difference"


RESULTS, PREDICTIONS = "results.json", "predictions.parquet"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's answer to one row, as it was read and scored. Tokens are None if unknown."""

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
    """What generating took, over all answers, also those of an earlier start.

    `seconds` without loading the model; `peak_memory` in bytes, MLX's count.
    """

    answers: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    peak_memory: int

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens; those of the prompts are read besides, and where shared only once."""
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
    """How one model did.

    `metric` is the main metric's name and `score` its mean; `exact` the share of
    outputs equal after normalization, whatever the metric. `unreadable` rows
    are wrong ones; `cut_off` are those that reached the length limit.
    `usd_per_1000` is what 1,000 such calls cost, where that is known.
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


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated on what: names and hashes, for lineage.

    `run` is the training run, or what stands in its place with `--adapter` and
    `--model`; it names the folder of the results.
    """

    run: str
    student: str
    identities: Mapping[str, str]
    dataset: str
    fingerprint: str
    split: Literal["test", "valid"]


@dataclass(frozen=True)
class EvaluationResult:
    """All figures of one evaluation. `folder` holds results.json and predictions.parquet."""

    subject: Subject
    n: int
    metric: str
    measure: str
    reason: str
    max_new_tokens: int
    models: Mapping[str, ModelScore]
    against: Mapping[str, Paired]
    generated: int
    reused: int
    folder: Path

    @property
    def paired(self) -> Paired:
        """The student against its base, under the same prompts."""
        return self.against[BASE]

    @property
    def verdict(self) -> str:
        """The comparison with the base in a sentence."""
        said = f"student against base: {describe_comparison(self.paired)}"
        if self.subject.split == "valid":
            said += "; these are validation rows, which training was steered by"
        return said

    def to_json(self) -> dict[str, Any]:
        """The fields of `--json`: those of `results.json`, and where it lies."""
        return {**self.figures(), "results": str(self.folder / RESULTS)}

    def figures(self) -> dict[str, Any]:
        """The fields of `results.json`."""
        return {
            "run": self.subject.run,
            "student": self.subject.student,
            "dataset": {"version": self.subject.dataset, "fingerprint": self.subject.fingerprint},
            "identities": dict(self.subject.identities),
            "n": self.n,
            "on": self.subject.split,
            "metric": {"name": self.metric, "measure": self.measure, "reason": self.reason},
            "decoding": {"temperature": 0, "max_new_tokens": self.max_new_tokens},
            "models": {name: score.to_json() for name, score in self.models.items()},
            "paired": asdict(self.paired),
            "against": {name: asdict(paired) for name, paired in self.against.items()},
            "verdict": self.verdict,
            "answers": {"generated": self.generated, "reused": self.reused},
        }

    def summary(self) -> str:
        """The verdict against each of the others, and where the results lie."""
        others = [
            f"against {DISPLAY_NAMES[name]}: {describe_comparison(paired)}"
            for name, paired in self.against.items()
            if name != BASE
        ]
        said = [_capital(self.verdict), *others, *self._price(), f"Results in {self.folder}"]
        return "\n".join(said)

    def _price(self) -> list[str]:
        """What the teacher costs where its price is known: what each student saves."""
        teacher = self.models.get(TEACHER)
        if teacher is None or teacher.usd_per_1000 is None:
            return []
        return [f"1,000 answers of the teacher cost ${teacher.usd_per_1000:.2f}"]

    def table(self) -> Table:
        title = f"{self.n} {self.subject.split} rows, {self.measure} ({self.reason})"
        columns = ("model", self.measure, "95%", "exact", "unreadable", "answers/s")
        return Table(title, columns, tuple(_line(n, score) for n, score in self.models.items()))


class _Named(BaseModel):
    name: str
    measure: str


class _Dataset(BaseModel):
    version: str
    fingerprint: str


class _Decoding(BaseModel):
    max_new_tokens: int


class _Score(BaseModel):
    value: float
    low: float
    high: float
    exact: ScoreEstimate
    unreadable: int
    cut_off: int
    details: dict[str, Any]
    speed: dict[str, float] | None
    usd_per_1000: float | None


class Written(BaseModel):
    """The fields of `results.json` that are read again: by the report, a card, `status`."""

    run: str
    student: str
    dataset: _Dataset
    identities: dict[str, str]
    n: int
    on: Literal["test", "valid"]
    metric: _Named
    decoding: _Decoding
    models: dict[str, _Score]
    paired: Paired
    against: dict[str, Paired]

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if not {STUDENT, BASE} <= self.models.keys() or BASE not in self.against:
            raise ValueError("student and base are not both there")
        if unknown := self.models.keys() - DISPLAY_NAMES.keys():
            raise ValueError(f"there is no model called {', '.join(sorted(unknown))}")
        return self


EVALUATE_AGAIN = "Delete it, then: nanodistill eval RUN.toml (answers are kept)."


def save(result: EvaluationResult, predictions: Sequence[Prediction]) -> None:
    """Write both files, each whole or not at all."""
    _write_predictions(result.folder / PREDICTIONS, predictions)
    write_json(result.folder / RESULTS, result.figures())


def read_results(folder: Path) -> dict[str, Any]:
    """What `save` wrote in `folder`, as plain values.

    Raises:
        CorruptFileError: it does not hold what an evaluation writes.
    """
    found = read_json(folder / RESULTS)
    checked(folder / RESULTS, found, Written, by="an evaluation", next_step=EVALUATE_AGAIN)
    return found


def _line(name: str, score: ModelScore) -> tuple[str, ...]:
    interval = f"{points(score.score.low)} to {points(score.score.high)}"
    return (
        DISPLAY_NAMES[name],
        f"{points(score.score.value)}%",
        interval,
        f"{points(score.exact.value)}%",
        str(score.unreadable),
        _rate(score.speed.answers_per_second) if score.speed else "",
    )


def _rate(each_second: float) -> str:
    return f"{each_second:.0f}" if each_second >= 10 else f"{each_second:.2g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from nanodistill.run_dir import write_atomic

    text, number = pa.string(), pa.int64()
    schema = pa.schema(
        [
            ("id", text), ("source", text), ("input", text), ("gold", text),
            ("gold_thinking", text), ("model", text), ("text", text), ("thinking", text),
            ("output", text), ("score", pa.float64()), ("readable", pa.bool_()),
            ("finish_reason", text), ("prompt_tokens", number), ("completion_tokens", number),
        ]
    )  # fmt: skip
    table = pa.Table.from_pylist([_columns(prediction) for prediction in predictions], schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


def _columns(prediction: Prediction) -> dict[str, Any]:
    row = prediction.row
    return {
        "id": row.id,
        "source": row.source,
        "input": row.input,
        "gold": row.gold,
        "gold_thinking": row.gold_thinking,
        "model": prediction.model,
        "text": prediction.text,
        "thinking": prediction.thinking,
        "output": prediction.output,
        "score": prediction.score,
        "readable": prediction.output is not None,
        "finish_reason": prediction.finish_reason,
        "prompt_tokens": prediction.prompt_tokens,
        "completion_tokens": prediction.completion_tokens,
    }
