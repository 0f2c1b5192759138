"""The evaluations of a run, as they were written, and which of them the report is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.evaluation.eval_models import BASE, STUDENT
from nanodistill.evaluation.results import PREDICTIONS, RESULTS, read_results
from nanodistill.run_dir import RunFolder
from nanodistill.stats import Paired, ScoreEstimate
from nanodistill.training.runs import RunEntry, read_index


@dataclass(frozen=True)
class Figures:
    """One model's figures; `details` are the metric's own. See `ModelScore`."""

    score: ScoreEstimate
    exact: ScoreEstimate
    unreadable: int
    cut_off: int
    details: Mapping[str, Any]
    speed: Mapping[str, float] | None
    usd_per_1000: float | None


@dataclass(frozen=True)
class Evaluation:
    """What `results.json` says; `train_on` where a training run of this folder was judged."""

    folder: Path
    run: str
    student: str
    train_on: str | None
    dataset: str
    fingerprint: str
    identities: Mapping[str, str]
    n: int
    split: str
    metric: str
    measure: str
    max_new_tokens: int
    models: Mapping[str, Figures]
    against: Mapping[str, Paired]

    @property
    def paired(self) -> Paired:
        return self.against[BASE]

    @property
    def student_score(self) -> float:
        return self.models[STUDENT].score.value

    @property
    def predictions(self) -> Path:
        return self.folder / PREDICTIONS

    @property
    def judged_by(self) -> tuple[str, str, str, int]:
        """What has to be the same for two evaluations to be compared."""
        return (self.fingerprint, self.split, self.metric, self.n)


def read_evaluations(run: RunFolder) -> list[Evaluation]:
    """All evaluations of the run, the one that was written last at the end.

    Raises:
        CorruptFileError: one of them does not hold what an evaluation writes.
    """
    found = run.evaluation.glob(f"*/{RESULTS}")
    ordered = sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))
    train_on = {entry.run: entry.train_on for entry in read_index(run)}
    return [_read(path.parent, train_on.get(path.parent.name)) for path in ordered]


def about(
    evaluations: Sequence[Evaluation], run: RunFolder, config: DistillationConfig
) -> Evaluation | None:
    """The evaluation to report: of the latest training of the student that `config` names,
    else of the latest training, else the one that was written last."""
    by_run = {evaluation.run: evaluation for evaluation in evaluations}
    trained = [entry for entry in read_index(run) if entry.run in by_run]
    own = [entry for entry in trained if _is_of(entry, config)]
    for entry in reversed(own or trained):
        return by_run[entry.run]
    return evaluations[-1] if evaluations else None


def comparable(evaluations: Sequence[Evaluation], with_: Evaluation) -> list[Evaluation]:
    """Those on the same rows by the same measure, `with_` first, then the best first."""
    same = [one for one in evaluations if one.judged_by == with_.judged_by and one != with_]
    return [with_, *sorted(same, key=lambda one: -one.student_score)]


def names_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """A name for each evaluation's student that tells it from the others, short if that does."""
    short = [one.student for one in evaluations]
    longer = [f"{one.student}, trained on {one.train_on}" for one in evaluations]
    whole = [f"{one.student} ({one.run})" for one in evaluations]
    told = zip(short, longer, whole, strict=True)
    return [
        name if short.count(name) == 1 else more if longer.count(more) == 1 else most
        for name, more, most in told
    ]


def _is_of(entry: RunEntry, config: DistillationConfig) -> bool:
    named = {config.student, Path(config.student).name}
    return entry.train_on == config.train_on and bool(
        named & {entry.student, Path(entry.student).name}
    )


def _read(folder: Path, train_on: str | None) -> Evaluation:
    found = read_results(folder)
    return Evaluation(
        folder=folder,
        run=found["run"],
        student=found["student"],
        train_on=train_on,
        dataset=found["dataset"]["version"],
        fingerprint=found["dataset"]["fingerprint"],
        identities=found["identities"],
        n=found["n"],
        split=found["on"],
        metric=found["metric"]["name"],
        measure=found["metric"]["measure"],
        max_new_tokens=found["decoding"]["max_new_tokens"],
        models={name: _figures(values) for name, values in found["models"].items()},
        against={name: Paired(**values) for name, values in found["against"].items()},
    )


def _figures(values: Mapping[str, Any]) -> Figures:
    return Figures(
        score=ScoreEstimate(values["value"], values["low"], values["high"]),
        exact=ScoreEstimate(**values["exact"]),
        unreadable=values["unreadable"],
        cut_off=values["cut_off"],
        details=values["details"],
        speed=values["speed"],
        usd_per_1000=values["usd_per_1000"],
    )
