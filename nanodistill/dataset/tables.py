"""Versions and their differences as tables for a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice

from nanodistill.dataset.diff import ConfigChange, RowRef, VersionDiff
from nanodistill.dataset.manifest import Statistics
from nanodistill.dataset.quality import quality_facts
from nanodistill.dataset.read import DatasetVersion, VersionIndex
from nanodistill.events import Table
from nanodistill.formatting import dollars

LONGEST_SHOWN = 100
CHANGES_SHOWN = 10


def version_tables(version: DatasetVersion, *, rows: int) -> list[Table]:
    """What a version is, how its outputs are spread, why rows were rejected, its first `rows`."""
    manifest, counts = version.manifest, version.counts
    figures = manifest.statistics
    about = [
        ("fingerprint", manifest.fingerprint),
        ("made", f"{manifest.created}, by {manifest.made_by}"),
        ("parents", ", ".join(parent[:8] for parent in manifest.parents)),
        ("teacher", manifest.teacher or ""),
        ("rows", f"{counts.train} train, {counts.valid} valid, {counts.test} test"),
        ("wanted", "" if manifest.wanted is None else str(manifest.wanted)),
        ("requested", str(manifest.requested)),
        ("rejected", _by_reason(counts.rejected)),
        ("failed", _by_reason(manifest.failed)),
        ("cost", dollars(manifest.cost_usd)),
        ("distinct-2", _distinct(figures)),
        *quality_facts(manifest),
    ]
    shown = [Table(version.name, ("", ""), tuple(line for line in about if line[1]))]
    if figures.outputs is not None:
        shown.append(_outputs(figures.outputs))
    first = islice(version.rows("train"), rows)
    lines = tuple((short(row["output"]), short(row["input"])) for row in first)
    return [*shown, Table("First rows of train", ("output", "input"), lines)] if lines else shown


def versions_table(index: VersionIndex) -> Table:
    """The versions of a run, oldest first."""
    lines = tuple(
        (
            entry.name + (" (latest)" if entry.name == index.latest else ""),
            entry.created,
            str(entry.counts.train),
            str(entry.counts.valid),
            str(entry.counts.test),
            str(sum(entry.counts.rejected.values())),
        )
        for entry in index.versions
    )
    return Table("Versions", ("version", "made", "train", "valid", "test", "rejected"), lines)


def diff_tables(found: VersionDiff) -> list[Table]:
    """The sums of a diff, its causes, and the first rows of each kind."""
    sums = (
        ("the same", str(found.same)),
        ("came", str(len(found.came))),
        ("went", str(len(found.went))),
        ("changed", str(len(found.changed))),
    )
    shown = [Table(f"{found.before} to {found.after}", ("rows", ""), sums)]
    if found.causes:
        lines = tuple(_cause_line(cause) for cause in found.causes)
        shown.append(Table("What differs in the making", ("what", "before", "after"), lines))
    for title, rows in (("Came", found.came), ("Went", found.went)):
        if rows:
            lines = tuple(
                (row.split, short(row.output), short(row.input)) for row in rows[:CHANGES_SHOWN]
            )
            shown.append(Table(_title(title, len(rows)), ("split", "output", "input"), lines))
    if found.changed:
        changes = tuple(
            line
            for change in found.changed[:CHANGES_SHOWN]
            for line in _change_lines(change.before, change.after, change.fields)
        )
        columns = ("input", "field", "before", "after")
        shown.append(Table(_title("Changed", len(found.changed)), columns, changes))
    return shown


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 1] + "…"


def _by_reason(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items())


def _distinct(figures: Statistics) -> str:
    over = f"over {figures.distinct_over} training rows"
    return " ".join(f"{part:.3f} {over}" for n, part in figures.distinct.items() if n[-1] == "2")


def _outputs(outputs: dict[str, dict[str, int]]) -> Table:
    names = sorted({name for found in outputs.values() for name in found})
    lines = tuple(
        (short(name), *(str(found.get(name, 0)) for found in outputs.values())) for name in names
    )
    return Table("Outputs", ("output", *outputs), lines)


def _cause_line(cause: ConfigChange) -> tuple[str, str, str]:
    before, after = cause.before or "", cause.after or ""
    pairs = enumerate(zip(before, after, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(before), len(after)))
    return cause.what, _short_from(before, same), _short_from(after, same)


def _short_from(text: str, same: int) -> str:
    """`text`, cut so that what follows its first `same` characters is seen."""
    start = max(0, same - LONGEST_SHOWN // 3)
    return short(text) if len(text) <= LONGEST_SHOWN or not start else short("… " + text[start:])


def _change_lines(
    before: RowRef, after: RowRef, fields: Iterable[str]
) -> Iterable[tuple[str, str, str, str]]:
    old, new = asdict(before), asdict(after)
    return [
        (short(after.input), name, short(old[name] or ""), short(new[name] or ""))
        for name in fields
    ]


def _title(kind: str, n: int) -> str:
    return f"{kind} (the first {CHANGES_SHOWN} of {n})" if n > CHANGES_SHOWN else kind


def rejected_table(version: DatasetVersion, *, rows: int) -> Table:
    """The first `rows` rejected rows, with reason and detail."""
    first = islice(version.rejected(), rows)
    lines = tuple(
        (row["reason"], short(row["detail"] or ""), short(row["output"]), short(row["input"]))
        for row in first
    )
    return Table("Rejected rows", ("reason", "detail", "output", "input"), lines)
