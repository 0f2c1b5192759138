"""The dataset in the report: balance, lengths, and the outcome of every candidate row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nanodistill.dataset.describe import (
    CELLS_SHOWN,
    OUTPUTS_SHOWN,
    THINKING_FROM,
    by_axis,
)
from nanodistill.dataset.manifest import Manifest
from nanodistill.dataset.quality import quality_facts
from nanodistill.formatting import plural
from nanodistill.reporting.report_tables import (
    Table,
    TableCell,
    TableRows,
    bar,
    count_table,
    fact_table,
    number,
    text,
)

# Reasons of rejection that do not explain themselves; the others are shown as they are.
REASONS = {
    "assistant_voice": "speaks as an assistant, not as a user",
    "loop": "repeats itself",
    "too_long": "too long",
    "missing": "missing from a short batch",
}
TEST_SOURCES = {
    "user": "your own file",
    "holdout_seeds": "seeds held out of every prompt",
    None: "of unknown origin",
}


@dataclass(frozen=True)
class Outcome:
    """A part of the requested rows in one bar: `share` of them, beginning at `start`."""

    name: str
    count: int
    start: float
    share: float


@dataclass(frozen=True)
class DatasetSection:
    """`outcomes` of the requested rows, `notes` of the dataset; `details` are collapsed."""

    name: str
    summary: str
    notes: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    tables: tuple[Table, ...]
    details: tuple[Table, ...]


def dataset_section(manifest: Manifest) -> DatasetSection:
    counts = manifest.counts
    source = TEST_SOURCES[manifest.test_source]
    test = f"{plural(counts.test, 'test row')} ({source})" if manifest.has_test else "no test rows"
    summary = f"{counts.train:,} training rows, {counts.valid:,} validation rows, {test}."
    if manifest.stopped_because and manifest.stopped_because != "complete":
        summary += f" Generation ended: {manifest.stopped_because}."
    return DatasetSection(
        name=manifest.name,
        summary=summary,
        notes=manifest.notes,
        outcomes=tuple(_outcomes(manifest)),
        tables=tuple(_tables(manifest)),
        details=tuple(_details(manifest)),
    )


def _outcomes(manifest: Manifest) -> Iterator[Outcome]:
    counts = {
        "kept": manifest.counts.kept,
        "rejected": sum(manifest.counts.rejected.values()),
        "lost to failed calls": sum(manifest.failed.values()),
    }
    start = 0.0
    for name, n in counts.items():
        share = n / manifest.requested if manifest.requested else 0.0
        if n:
            yield Outcome(name, n, start, share)
        start += share


def _tables(manifest: Manifest) -> Iterator[Table]:
    rows: TableRows
    figures, rejected = manifest.statistics, manifest.counts.rejected
    if figures.outputs is not None:
        outputs = figures.outputs
        splits = [split for split in ("train", "valid", "test") if split in outputs]
        labels = list(dict.fromkeys(label for split in splits for label in outputs[split]))
        totals = {split: sum(outputs[split].values()) for split in splits}
        rows = tuple(
            (text(label), *(bar(outputs[split].get(label, 0), totals[split]) for split in splits))
            for label in labels[:OUTPUTS_SHOWN]
        )
        more = len(labels) - OUTPUTS_SHOWN
        note = f"And {plural(more, 'more label')}." if more > 0 else ""
        yield Table("Balance by label", ("label", *splits), rows, note)

    longest = max((spread[-1] for spread in figures.lengths.values()), default=0)
    rows = tuple(
        (text(name), *(bar(value, longest) for value in spread))
        for name, spread in figures.lengths.items()
    )
    columns = ("part of a row", "median", "95th percentile", "longest")
    yield Table("Lengths in characters", columns, rows)

    if rejected:
        reasons = {
            REASONS[name] if name in REASONS else name.replace("_", " "): n
            for name, n in rejected.items()
        }
        yield count_table("Rejected rows by reason", ("reason", "rows"), reasons)
    facts = quality_facts(manifest)
    yield fact_table("Quality", [(name, text(found)) for name, found in facts])
    yield count_table("Kept rows by source", ("source", "rows"), figures.sources)
    if figures.thinking_from:
        named = {THINKING_FROM[name]: n for name, n in figures.thinking_from.items()}
        yield count_table(
            "Origin of the thinking", ("thinking", "rows"), named, manifest.counts.kept
        )


def _details(manifest: Manifest) -> Iterator[Table]:
    rows: TableRows
    cells: dict[str, tuple[int, ...]] = {
        name: cell.figures for name, cell in manifest.cells.items() if "=" in name
    }
    if len(cells) > CELLS_SHOWN:
        cells = {f"{axis}: {value}": sums for (axis, value), sums in by_axis(cells).items()}
    if cells:
        rows = tuple(
            (text(name), number(requested), bar(kept, requested), number(rejected), number(failed))
            for name, (requested, kept, rejected, failed) in cells.items()
        )
        columns = ("cell of the coverage plan", "requested", "kept", "rejected", "failed")
        yield Table("Outcomes by cell of the coverage plan", columns, rows)

    if manifest.stages:
        rows = tuple(
            (text(step.stage), number(step.reached), bar(step.refused, step.reached))
            for step in manifest.stages
        )
        yield Table("Curation steps", ("step", "checked", "rejected"), rows)

    if manifest.failed:
        yield count_table("Rows lost to failed calls", ("reason", "rows"), manifest.failed)

    figures = manifest.statistics
    if figures.distinct:
        rows = tuple(
            (text(f"{name[-1]} words"), TableCell(f"{part:.3f}", "number", part))
            for name, part in figures.distinct.items()
        )
        yield Table(
            "Variety: distinct word n-grams of the inputs over all of them",
            ("n-gram", "distinct"),
            rows,
            f"Over {plural(figures.distinct_over, 'training row')}.",
        )
