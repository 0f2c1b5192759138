"""All that the report tells, gathered from a run's folder: each part where it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.dataset.read import current_index
from nanodistill.errors import InputError
from nanodistill.evaluation.eval_models import BASE, DISPLAY_NAMES, STUDENT, TEACHER
from nanodistill.reporting.dataset_section import DatasetSection, dataset_section
from nanodistill.reporting.evaluation_data import Evaluation, about, comparable, read_evaluations
from nanodistill.reporting.mistakes import Confusion, confusions, mistake_sheets
from nanodistill.reporting.prediction_rows import Rows, judged_rows
from nanodistill.reporting.provenance_section import Spend, lineage, settings, spend
from nanodistill.reporting.report_tables import Table, percent, plural
from nanodistill.reporting.scores import (
    Headline,
    ScoreInterval,
    further_sheet,
    judged_headline,
    score_intervals,
    student_intervals,
    students_sheet,
    unjudged_headline,
)
from nanodistill.reporting.training_section import Training, read_trainings
from nanodistill.run_dir import RunFolder
from nanodistill.training.runs import RunEntry, read_index


@dataclass(frozen=True)
class StatCard:
    """A figure to remember. `model` colours it as that model's."""

    name: str
    value: str
    small: str
    model: str = ""


@dataclass(frozen=True)
class Scores:
    """How the models did, and what they get wrong."""

    measure: str
    on: str
    models: tuple[ScoreInterval, ...]
    students: tuple[ScoreInterval, ...]
    sheets: tuple[Table, ...]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Table, ...]


@dataclass(frozen=True)
class ReportData:
    """The report's parts, top to bottom; None or empty for what is not there."""

    name: str
    made: str
    instruction: str
    headline: Headline
    notes: tuple[str, ...]
    tiles: tuple[StatCard, ...]
    scores: Scores | None
    rows: Rows | None
    trainings: tuple[Training, ...]
    dataset: DatasetSection | None
    spend: Spend | None
    lineage: tuple[Table, ...]
    settings: Table


def collect(config: DistillationConfig, run: RunFolder) -> ReportData:
    """The story of a run so far.

    Raises:
        InputError: nothing was done in it yet.
        CorruptFileError: one of its files can't be read.
    """
    evaluations = read_evaluations(run)
    found = about(evaluations, run, config)
    trainings = read_trainings(run, found.run if found else None)
    version = _version(run, found)
    manifest = version.manifest if version else None
    spent = spend(run, manifest)
    if not (evaluations or trainings or manifest or spent):
        raise InputError(
            f"{run.root} has nothing to report yet.",
            next_step="Begin with: nanodistill synth RUN.toml",
        )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    dataset = dataset_section(manifest) if manifest else None
    return ReportData(
        name=config.name,
        made=made,
        instruction=manifest.instruction if manifest else config.instruction,
        headline=_headline(found, trainings, version, spent),
        notes=tuple(_notes(evaluations, found, version, read_index(run))),
        tiles=tuple(_stat_cards(found, version, spent)),
        scores=_scores(evaluations, found) if found else None,
        rows=judged_rows(comparable(evaluations, found)) if found else None,
        trainings=tuple(trainings),
        dataset=dataset,
        spend=spent,
        lineage=tuple(lineage(config, manifest, found, made)),
        settings=settings(config),
    )


def _version(run: RunFolder, found: Evaluation | None) -> DatasetVersion | None:
    """The version that was judged on, where it is in this run; without any, the latest."""
    index = current_index(run)
    if found is None:
        return open_version(run.datasets / index.latest, run) if index.latest else None
    for entry in index.versions:
        if entry.fingerprint == found.fingerprint:
            return open_version(run.datasets / entry.name, run)
    return None


def _headline(
    found: Evaluation | None,
    trainings: Sequence[Training],
    version: DatasetVersion | None,
    spent: Spend | None,
) -> Headline:
    if found is not None:
        return judged_headline(found)
    return unjudged_headline(
        training=trainings[0].state if trainings else None,
        rows=version.counts.kept if version else None,
        answers=(spent.answers if spent else None) or 0,
    )


def _notes(
    evaluations: Sequence[Evaluation],
    found: Evaluation | None,
    version: DatasetVersion | None,
    trained: Sequence[RunEntry],
) -> Iterator[str]:
    """What a reader should know before believing the rest."""
    if found is None:
        return
    if version is None:
        yield f"Dataset version {found.dataset}, which was judged on, is not in this run's folder."
    latest = trained[-1].run if trained else found.run
    if latest not in {found.run, *(one.run for one in evaluations)}:
        yield f"Training run {latest} is newer, and not judged yet; this is about {found.run}."


def _scores(evaluations: Sequence[Evaluation], found: Evaluation) -> Scores:
    alike = comparable(evaluations, found)
    several = [students_sheet(evaluations)] if len(evaluations) > 1 else []
    return Scores(
        measure=found.measure,
        on=f"{found.n:,} {found.split} rows",
        models=tuple(score_intervals(found)),
        students=tuple(student_intervals(alike)) if len(alike) > 1 else (),
        sheets=(*several, further_sheet(found)),
        confusions=tuple(confusions(found)),
        mistakes=tuple(mistake_sheets(found)),
    )


def _stat_cards(
    found: Evaluation | None, version: DatasetVersion | None, spent: Spend | None
) -> Iterator[StatCard]:
    if found is not None:
        for model in (STUDENT, BASE, TEACHER):
            if model in found.models:
                yield _score_card(found, model)
    if version is not None:
        rows = version.counts
        yield StatCard("training rows", f"{rows.train:,}", f"and {rows.valid:,} to validate")
    if spent is not None:
        answers = "" if spent.answers is None else plural(spent.answers, "answer")
        yield StatCard("spent on the teacher", spent.total, answers)


def _score_card(found: Evaluation, model: str) -> StatCard:
    score = found.models[model].score
    between = f"95%: {percent(score.low)} to {percent(score.high)}"
    return StatCard(f"{DISPLAY_NAMES[model]} {found.measure}", percent(score.value), between, model)
