"""All that the report tells, gathered from a run's folder: each part where it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.dataset.index import current_index
from nanodistill.errors import InputError
from nanodistill.evaluation.contenders import BASE, SHOWN_AS, STUDENT, TEACHER
from nanodistill.reporting.composition import Composition, composition
from nanodistill.reporting.curves import Training, read_trainings
from nanodistill.reporting.headline import Headline, judged_headline, unjudged_headline
from nanodistill.reporting.judged import Evaluation, about, comparable, read_evaluations
from nanodistill.reporting.lineage import lineage, settings
from nanodistill.reporting.mistakes import Confusion, confusions, mistake_sheets
from nanodistill.reporting.rows import Rows, judged_rows
from nanodistill.reporting.scores import (
    Whisker,
    further_sheet,
    student_whiskers,
    students_sheet,
    whiskers,
)
from nanodistill.reporting.sheets import Sheet, percent, plural
from nanodistill.reporting.spend import Spend, spend
from nanodistill.runfolder import RunFolder
from nanodistill.training.runs import RunEntry, read_index


@dataclass(frozen=True)
class Tile:
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
    models: tuple[Whisker, ...]
    students: tuple[Whisker, ...]
    sheets: tuple[Sheet, ...]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Sheet, ...]


@dataclass(frozen=True)
class Story:
    """The report's parts, top to bottom; None or empty for what is not there."""

    name: str
    made: str
    instruction: str
    headline: Headline
    notes: tuple[str, ...]
    tiles: tuple[Tile, ...]
    scores: Scores | None
    rows: Rows | None
    trainings: tuple[Training, ...]
    dataset: Composition | None
    spend: Spend | None
    lineage: tuple[Sheet, ...]
    settings: Sheet


def gather(config: DistillationConfig, run: RunFolder) -> Story:
    """The story of a run so far.

    Raises:
        InputError: nothing was done in it yet.
        DamagedFile: one of its files can't be read.
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
    dataset = composition(manifest) if manifest else None
    return Story(
        name=config.name,
        made=made,
        instruction=manifest.instruction if manifest else config.instruction,
        headline=_headline(found, trainings, version, spent),
        notes=tuple(_notes(evaluations, found, version, read_index(run))),
        tiles=tuple(_tiles(found, version, spent)),
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
        models=tuple(whiskers(found)),
        students=tuple(student_whiskers(alike)) if len(alike) > 1 else (),
        sheets=(*several, further_sheet(found)),
        confusions=tuple(confusions(found)),
        mistakes=tuple(mistake_sheets(found)),
    )


def _tiles(
    found: Evaluation | None, version: DatasetVersion | None, spent: Spend | None
) -> Iterator[Tile]:
    if found is not None:
        for model in (STUDENT, BASE, TEACHER):
            if model in found.models:
                yield _score_tile(found, model)
    if version is not None:
        rows = version.counts
        yield Tile("training rows", f"{rows.train:,}", f"and {rows.valid:,} to validate")
    if spent is not None:
        answers = "" if spent.answers is None else plural(spent.answers, "answer")
        yield Tile("spent on the teacher", spent.total, answers)


def _score_tile(found: Evaluation, model: str) -> Tile:
    score = found.models[model].score
    between = f"95%: {percent(score.low)} to {percent(score.high)}"
    return Tile(f"{SHOWN_AS[model]} {found.measure}", percent(score.value), between, model)
