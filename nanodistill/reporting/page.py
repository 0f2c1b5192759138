"""Write report.html: collect a run's parts, scrub every text, render one file.

The file's content security policy allows the hashes of the two scripts and the style,
and nothing else: markup that got in through a bug could still run and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.config import DistillationConfig
from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.dataset.read import current_index
from nanodistill.errors import InputError
from nanodistill.evaluation.eval_models import BASE, DISPLAY_NAMES, STUDENT, TEACHER
from nanodistill.formatting import percent, plural
from nanodistill.reporting.dataset_section import DatasetSection, dataset_section
from nanodistill.reporting.evaluation_data import (
    Evaluation,
    Rows,
    comparable,
    read_evaluations,
    scored_rows,
    select_evaluation,
)
from nanodistill.reporting.evaluation_section import (
    Headline,
    Scores,
    between,
    evaluation_headline,
    progress_headline,
    scores_section,
)
from nanodistill.reporting.provenance_section import (
    Spend,
    lineage_tables,
    read_spend,
    settings_table,
)
from nanodistill.reporting.report_tables import Table
from nanodistill.reporting.scrub import Scrubber
from nanodistill.reporting.training_section import Training, read_trainings
from nanodistill.run_dir import RunFolder, write_atomic
from nanodistill.training.runs import read_index

if TYPE_CHECKING:
    from jinja2 import Template

ASSETS = resources.files("nanodistill.reporting") / "assets"
STYLES = ("uPlot.min.css", "style.css")
SCRIPTS = ("uPlot.iife.min.js", "report.js")


@dataclass(frozen=True)
class Report:
    """A written report: its path, its first sentence, and the names of its parts."""

    path: Path
    verdict: str
    parts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"report": str(self.path), "verdict": self.verdict, "parts": list(self.parts)}

    def summary(self) -> str:
        return f"{self.verdict}\nReport in {self.path}"


@dataclass(frozen=True)
class StatCard:
    """A figure at the top of the page, in the colour of `model`."""

    name: str
    value: str
    detail: str
    model: str = ""


@dataclass(frozen=True)
class ReportData:
    """The report's parts from top to bottom; None or empty for what a run does not have."""

    name: str
    created: str
    instruction: str
    headline: Headline
    notes: tuple[str, ...]
    cards: tuple[StatCard, ...]
    scores: Scores | None
    rows: Rows | None
    trainings: tuple[Training, ...]
    dataset: DatasetSection | None
    spend: Spend | None
    lineage: tuple[Table, ...]
    settings: Table


def write_report(config: DistillationConfig, run: RunFolder) -> Report:
    """Write `run`'s report.html with what there is.

    Raises:
        InputError: the run is empty.
        CorruptFileError: one of the run's files can't be read.
    """
    data = collect(config, run)
    scrubbed: dict[str, Any] = Scrubber.of(config).clean(asdict(data))
    curves = {training["run"]: training["curves"] for training in scrubbed["trainings"]}
    page = render(scrubbed, {"curves": curves, "rows": scrubbed["rows"]})
    # "replace": half a surrogate pair, which JSON can hold, has no UTF-8.
    write_atomic(run.report, page.encode("utf-8", "replace"))
    parts = {
        "scores": data.scores,
        "rows": data.rows,
        "training": data.trainings,
        "dataset": data.dataset,
        "spend": data.spend,
    }
    present = tuple(name for name, part in parts.items() if part)
    return Report(run.report, scrubbed["headline"]["verdict"], present)


def collect(config: DistillationConfig, run: RunFolder) -> ReportData:
    """Everything that the report shows of a run.

    Raises:
        InputError: the run is empty.
        CorruptFileError: one of its files can't be read.
    """
    evaluations = read_evaluations(run)
    reported = select_evaluation(evaluations, run, config)
    trainings = read_trainings(run, reported.results.run if reported else None)
    version = _version(run, reported)
    manifest = version.manifest if version else None
    spend = read_spend(run, manifest)
    if not (evaluations or trainings or manifest or spend):
        raise InputError(
            f"{run.root} has nothing to report yet.",
            next_step="Begin with: nanodistill synth RUN.toml",
        )
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    scores = rows = None
    if reported is not None:
        same_rows = comparable(evaluations, reported)
        scores = scores_section(reported, evaluations, same_rows)
        rows = scored_rows(same_rows)
        headline = evaluation_headline(reported)
    else:
        headline = progress_headline(
            training=trainings[0].state if trainings else None,
            rows=version.counts.kept if version else None,
            answers=(spend.answers if spend else None) or 0,
        )
    return ReportData(
        name=config.name,
        created=created,
        instruction=manifest.instruction if manifest else config.instruction,
        headline=headline,
        notes=tuple(_notes(evaluations, reported, version, run)),
        cards=tuple(_cards(reported, version, spend)),
        scores=scores,
        rows=rows,
        trainings=tuple(trainings),
        dataset=dataset_section(manifest) if manifest else None,
        spend=spend,
        lineage=tuple(lineage_tables(config, manifest, reported, created)),
        settings=settings_table(config),
    )


def _version(run: RunFolder, reported: Evaluation | None) -> DatasetVersion | None:
    """The version of the evaluation, if this run folder has it; without one, the latest."""
    index = current_index(run)
    if reported is None:
        return open_version(run.datasets / index.latest, run) if index.latest else None
    for entry in index.versions:
        if entry.fingerprint == reported.results.dataset.fingerprint:
            return open_version(run.datasets / entry.name, run)
    return None


def _notes(
    evaluations: Sequence[Evaluation],
    reported: Evaluation | None,
    version: DatasetVersion | None,
    run: RunFolder,
) -> Iterator[str]:
    """What a reader should know before believing the rest."""
    if reported is None:
        return
    own_run = reported.results.run
    if version is None:
        evaluated_on = reported.results.dataset.version
        yield f"Dataset version {evaluated_on}, the evaluated one, is not in this run's folder."
    trained = read_index(run)
    latest = trained[-1].run if trained else own_run
    if latest not in {own_run, *(one.results.run for one in evaluations)}:
        yield f"Training run {latest} is newer and not yet evaluated; this is about {own_run}."


def _cards(
    reported: Evaluation | None, version: DatasetVersion | None, spend: Spend | None
) -> Iterator[StatCard]:
    if reported is not None:
        saved = reported.results
        for model in (STUDENT, BASE, TEACHER):
            if model in saved.models:
                score = saved.models[model].score
                name = f"{DISPLAY_NAMES[model]} {saved.metric.measure}"
                yield StatCard(name, percent(score.value), f"95%: {between(score)}", model)
    if version is not None:
        rows = version.counts
        yield StatCard("training rows", f"{rows.train:,}", f"and {rows.valid:,} for validation")
    if spend is not None:
        answers = "" if spend.answers is None else plural(spend.answers, "answer")
        yield StatCard("spent on the teacher", spend.total, answers)


def render(report: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page. The template shows `report`; the script draws and browses `data`."""
    from markupsafe import Markup

    style = "\n".join(asset(name) for name in STYLES)
    scripts = [asset(name) for name in SCRIPTS]
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(_csp_hash, scripts))}",
        f"style-src {_csp_hash(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return _template().render(
        **report,
        policy="; ".join(policy),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embedded(data)),
    )


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can neither end the script element around it nor open another one in it."""
    written = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return written


@cache
def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _template() -> Template:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
