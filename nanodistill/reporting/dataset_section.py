"""What the dataset is made of: balance, lengths, and what became of every candidate row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nanodistill.dataset.describe import (
    CELLS_SHOWN,
    DUPLICATES,
    OUTPUTS_SHOWN,
    THINKING_FROM,
    by_axis,
)
from nanodistill.dataset.manifest import Manifest
from nanodistill.reporting.report_tables import (
    Table,
    TableCell,
    bar,
    counted,
    facts,
    number,
    percent,
    plural,
    text,
)

COMPLETE = "complete"
REASONS = {
    "assistant_voice": "speaks as an assistant, not as a user",
    "loop": "repeats itself",
    "too_long": "too long",
    "missing": "missing from a short batch",
}


@dataclass(frozen=True)
class Part:
    """A part of a whole, to be drawn in one bar: `share` of it, from `start` on."""

    name: str
    count: int
    start: float
    share: float


@dataclass(frozen=True)
class DatasetSection:
    """`fate` is what became of the requested rows, `notes` what the maker remarked."""

    name: str
    summary: str
    notes: tuple[str, ...]
    fate: tuple[Part, ...]
    sheets: tuple[Table, ...]
    folded: tuple[Table, ...]


def dataset_section(manifest: Manifest) -> DatasetSection:
    folded = [_cells(manifest), _stages(manifest), _failed(manifest), _variety(manifest)]
    return DatasetSection(
        name=manifest.name,
        summary=_summary(manifest),
        notes=manifest.notes,
        fate=_outcome_bar(manifest),
        sheets=tuple(_sheets(manifest)),
        folded=tuple(sheet for sheet in folded if sheet is not None),
    )


def _summary(manifest: Manifest) -> str:
    counts = manifest.counts
    tested = {
        "user": "a file of the user's",
        "holdout_seeds": "seeds that no prompt has shown",
        None: "of unstated origin",
    }[manifest.test_source]
    test = f"{plural(counts.test, 'test row')} ({tested})" if manifest.has_test else "no test rows"
    ended = manifest.stopped_because
    why = f" Generation ended: {ended}." if ended and ended != COMPLETE else ""
    return f"{counts.train:,} training rows, {counts.valid:,} validation rows, {test}.{why}"


def _outcome_bar(manifest: Manifest) -> tuple[Part, ...]:
    counts = {
        "kept": manifest.counts.kept,
        "rejected": sum(manifest.counts.rejected.values()),
        "lost to failed calls": sum(manifest.failed.values()),
    }
    parts, start = [], 0.0
    for name, n in counts.items():
        share = n / manifest.requested if manifest.requested else 0.0
        parts.append(Part(name, n, start, share))
        start += share
    return tuple(part for part in parts if part.count)


def _sheets(manifest: Manifest) -> Iterator[Table]:
    figures = manifest.statistics
    if figures.outputs is not None:
        yield _balance(figures.outputs)
    yield _lengths(figures.lengths)
    if manifest.counts.rejected:
        reasons = {_reason(name): n for name, n in manifest.counts.rejected.items()}
        yield counted("Rejected rows by reason", ("reason", "rows"), reasons)
    yield _quality(manifest)
    yield counted("Kept rows by source", ("source", "rows"), figures.sources)
    if figures.thinking_from:
        named = {THINKING_FROM[name]: n for name, n in figures.thinking_from.items()}
        yield counted("Whose thinking it is", ("thinking", "rows"), named, manifest.counts.kept)


def _balance(outputs: Mapping[str, Mapping[str, int]]) -> Table:
    splits = [split for split in ("train", "valid", "test") if split in outputs]
    labels = list(dict.fromkeys(label for split in splits for label in outputs[split]))
    totals = {split: sum(outputs[split].values()) for split in splits}
    rows = tuple(
        (text(label), *(bar(outputs[s].get(label, 0), totals[s])
                        for s in splits))
        for label in labels[:OUTPUTS_SHOWN]
    )  # fmt: skip
    more = len(labels) - OUTPUTS_SHOWN
    note = f"And {plural(more, 'more label')}." if more > 0 else ""
    return Table("Balance by label", ("label", *splits), rows, note)


def _lengths(lengths: Mapping[str, tuple[int, int, int]]) -> Table:
    longest = max((spread[-1] for spread in lengths.values()), default=0)
    rows = tuple(
        (text(name), *(bar(value, longest) for value in spread)) for name, spread in lengths.items()
    )
    columns = ("part of a row", "median", "95th percentile", "longest")
    return Table("Lengths in characters", columns, rows)


def _quality(manifest: Manifest) -> Table:
    """Agreement and duplicates; what was not measured is said to be so."""
    found, measured = manifest.agreement, manifest.statistics.confidence
    blind = (
        f"{found.agreed} of {found.of} seeds (95%: {percent(found.low)} to {percent(found.high)})"
        if found
        else "not measured"
    )
    itself = (
        f"{percent(measured[0])} on average, {percent(measured[1])} at least"
        if measured
        else "not measured"
    )
    rejected = manifest.counts.rejected
    exact, near = (rejected.get(reason, 0) for reason in DUPLICATES)
    return facts(
        "Agreement and duplicates",
        [
            ("teacher, asked blind, agrees with the seeds", text(blind)),
            ("teacher agrees with itself", text(itself)),
            ("duplicates removed", number(exact)),
            ("near-duplicates removed", number(near)),
            ("rows too like a test row removed", number(rejected.get("contaminated", 0))),
        ],
    )


def _cells(manifest: Manifest) -> Table | None:
    """By place in the coverage plan: by the values of each axis, where there are many places."""
    accounts: dict[str, tuple[int, ...]] = {
        name: cell.figures for name, cell in manifest.cells.items() if "=" in name
    }
    if not accounts:
        return None
    if len(accounts) > CELLS_SHOWN:
        accounts = {f"{axis}: {value}": sums for (axis, value), sums in by_axis(accounts).items()}
    rows = tuple(
        (text(name), number(asked), bar(kept, asked), number(rejected), number(failed))
        for name, (asked, kept, rejected, failed) in accounts.items()
    )
    columns = ("place in the coverage plan", "asked for", "kept", "rejected", "failed")
    return Table("Account by place in the coverage plan", columns, rows)


def _stages(manifest: Manifest) -> Table | None:
    if not manifest.stages:
        return None
    rows = tuple(
        (text(step.stage), number(step.reached), bar(step.refused, step.reached))
        for step in manifest.stages
    )
    return Table("Steps of curation", ("step", "reached it", "refused"), rows)


def _failed(manifest: Manifest) -> Table | None:
    if not manifest.failed:
        return None
    return counted("Rows lost to failed calls", ("why", "rows"), manifest.failed)


def _variety(manifest: Manifest) -> Table | None:
    figures = manifest.statistics
    if not figures.distinct:
        return None
    rows = tuple((text(f"{name[-1]} words"), TableCell(f"{part:.3f}", "number", part))
                 for name, part in figures.distinct.items())  # fmt: skip
    return Table(
        "Variety: different word n-grams of the inputs over all of them", ("n-gram", "distinct"),
        rows, f"Over {plural(figures.distinct_over, 'training row')}.",
    )  # fmt: skip


def _reason(name: str) -> str:
    return REASONS[name] if name in REASONS else name.replace("_", " ")
