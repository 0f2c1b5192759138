"""A run's evaluations: which of them the report is about, and every scored row.

Rows are kept as columns, and equal columns (one base behind several students) once,
because they are most of the file. Very long texts are cut, and say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.errors import CorruptFileError
from nanodistill.evaluation.eval_models import BASE, DISPLAY_NAMES, STUDENT
from nanodistill.evaluation.results import PREDICTIONS, RESULTS, SavedResults, read_saved
from nanodistill.run_dir import RunFolder
from nanodistill.stats import Paired, ScoreEstimate
from nanodistill.training.runs import RunEntry, read_index

# Characters of a text, and rows. They bound the file, which a browser holds in memory as a whole:
# twice as much is twice the file, half as much would cut real test sets.
MAX_TEXT = 20_000
MAX_ROWS = 20_000
# Entries of the filter by gold answer. A longer list takes longer to scroll than to search.
MAX_LABELS = 60


@dataclass(frozen=True)
class Evaluation:
    """One `results.json`. `train_on` is its training run's, None for other models."""

    folder: Path
    train_on: str | None
    results: SavedResults

    @property
    def paired(self) -> Paired:
        return self.results.against[BASE]

    @property
    def student_score(self) -> ScoreEstimate:
        return self.results.models[STUDENT].score


def read_evaluations(run: RunFolder) -> list[Evaluation]:
    """All evaluations of the run, the latest last.

    Raises:
        CorruptFileError: one of them is not what an evaluation writes.
    """
    files = run.evaluation.glob(f"*/{RESULTS}")
    ordered = sorted(files, key=lambda path: (path.stat().st_mtime_ns, path))
    train_on = {entry.run: entry.train_on for entry in read_index(run)}
    return [
        Evaluation(path.parent, train_on.get(path.parent.name), read_saved(path.parent))
        for path in ordered
    ]


def select_evaluation(
    evaluations: Sequence[Evaluation], run: RunFolder, config: DistillationConfig
) -> Evaluation | None:
    """The evaluation to report.

    Of the latest training of the student that `config` names, else of the latest training, else
    the evaluation that was written last.
    """

    def is_configured(entry: RunEntry) -> bool:
        names = {config.student, Path(config.student).name}
        own_names = {entry.student, Path(entry.student).name}
        return entry.train_on == config.train_on and bool(names & own_names)

    by_run = {evaluation.results.run: evaluation for evaluation in evaluations}
    trained = [entry for entry in read_index(run) if entry.run in by_run]
    for entry in reversed([entry for entry in trained if is_configured(entry)] or trained):
        return by_run[entry.run]
    return evaluations[-1] if evaluations else None


def comparable(evaluations: Sequence[Evaluation], reported: Evaluation) -> list[Evaluation]:
    """Those on the same rows by the same metric: `reported` first, then the best first."""

    def basis(one: Evaluation) -> tuple[object, ...]:
        saved = one.results
        return saved.dataset.fingerprint, saved.on, saved.metric.name, saved.n

    same = [one for one in evaluations if basis(one) == basis(reported) and one != reported]
    return [reported, *sorted(same, key=lambda one: -one.student_score.value)]


def names_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """The shortest name of each evaluation's student that tells it from the others."""
    short = [one.results.student for one in evaluations]
    longer = [f"{one.results.student}, trained on {one.train_on}" for one in evaluations]
    longest = [f"{one.results.student} ({one.results.run})" for one in evaluations]
    return [
        a if short.count(a) == 1 else b if longer.count(b) == 1 else c
        for a, b, c in zip(short, longer, longest, strict=True)
    ]


@dataclass(frozen=True)
class Answers:
    """One model's answers in the order of the rows. `raw` is the text of an unreadable one."""

    output: tuple[str | None, ...]
    thinking: tuple[str | None, ...]
    raw: tuple[str | None, ...]
    score: tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A model as one column of the row browser; `answers` is an index into `Rows.answers`."""

    model: str
    display_name: str
    answers: int


@dataclass(frozen=True)
class View:
    """One student, and the models beside it."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Rows:
    """The scored rows as the page browses them.

    `graded` if scores lie between right and wrong; `left_out` rows are not in the file.
    """

    input: tuple[str, ...]
    gold: tuple[str, ...]
    gold_thinking: tuple[str | None, ...]
    answers: tuple[Answers, ...]
    views: tuple[View, ...]
    labels: tuple[str, ...]
    graded: bool
    left_out: int


def scored_rows(evaluations: Sequence[Evaluation]) -> Rows | None:
    """The rows that the evaluations share; None without predictions.

    Raises:
        CorruptFileError: predictions can't be read.
    """
    pool: list[Answers] = []
    views: list[View] = []
    prompts: list[dict[str, Any]] = []
    kept = [one for one in evaluations if (one.folder / PREDICTIONS).exists()]
    for name, one in zip(names_of(kept), kept, strict=True):
        columns = []
        for model, lines in _read_predictions(one).items():
            prompts = prompts or lines
            answers = _answers(lines[:MAX_ROWS])
            if answers not in pool:
                pool.append(answers)
            columns.append(Column(model, DISPLAY_NAMES[model], pool.index(answers)))
        views.append(View(name, tuple(columns)))
    if not kept:
        return None
    shown = prompts[:MAX_ROWS]
    golds = tuple(_cut(line["gold"]) for line in shown)
    labels = tuple(dict.fromkeys(golds))
    # A filter by gold answer is useful if answers repeat.
    has_filter = 1 < len(labels) <= min(MAX_LABELS, max(len(golds) // 2, 2))
    return Rows(
        input=tuple(_cut(line["input"]) for line in shown),
        gold=golds,
        gold_thinking=tuple(_cut_or_none(line["gold_thinking"]) for line in shown),
        answers=tuple(pool),
        views=tuple(views),
        labels=labels if has_filter else (),
        graded=any(score not in (0, 1) for answers in pool for score in answers.score),
        left_out=len(prompts) - len(shown),
    )


def _read_predictions(one: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """The lines of predictions.parquet by model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = one.folder / PREDICTIONS
    try:
        lines = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{path} can't be read: {error}.",
            next_step="Delete it, then: nanodistill eval RUN.toml (answers are kept).",
        ) from error
    by_model: dict[str, list[dict[str, Any]]] = {model: [] for model in one.results.models}
    for line in lines:
        by_model[line["model"]].append(line)
    return by_model


def _answers(lines: Iterable[Mapping[str, Any]]) -> Answers:
    lines = list(lines)
    return Answers(
        output=tuple(_cut_or_none(line["output"]) for line in lines),
        thinking=tuple(_cut_or_none(line["thinking"]) for line in lines),
        raw=tuple(_cut(line["text"]) if line["output"] is None else None for line in lines),
        score=tuple(round(line["score"], 4) for line in lines),
    )


def _cut(text: str) -> str:
    more = len(text) - MAX_TEXT
    return f"{text[:MAX_TEXT]} … ({more:,} more characters)" if more > 0 else text


def _cut_or_none(text: str | None) -> str | None:
    return None if text is None else _cut(text)
