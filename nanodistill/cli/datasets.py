"""The commands that work on dataset versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanodistill.cli.command import (
    SET_HELP,
    CommandResult,
    RunContext,
    cli,
    command,
    listening,
    output_options,
)
from nanodistill.errors import FolderError
from nanodistill.events import Table
from nanodistill.run_dir import RunFolder

if TYPE_CHECKING:
    from nanodistill.dataset import DatasetVersion


@cli.group("dataset")
def dataset() -> None:
    """Look at dataset versions, check them, mend them, remove old ones."""


def run_of(work: RunContext) -> RunFolder:
    return RunFolder(work.config.run_folder)


def version_of(work: RunContext, version: str | None) -> DatasetVersion:
    """The version of the run that was named, else the latest."""
    from nanodistill.dataset import open_version

    return open_version(version, run_of(work))


def reading_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """The first argument and `--set` of a command that only reads, and so needs no run file."""
    marks = (
        click.argument("where", metavar="RUN.toml|FOLDER", type=click.Path(path_type=Path)),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP),
        output_options,
    )
    for mark in marks:
        body = mark(body)
    return body


def run_at(where: Path, overrides: tuple[str, ...]) -> RunFolder | None:
    """The run of a run file; None where `where` is the folder of a version by itself."""
    from nanodistill.config import load_config

    if where.is_dir():
        return None
    return RunFolder(load_config(where, overrides).run_folder)


@dataset.command("show")
@reading_options
@click.argument("version", required=False)
@click.option("--rows", default=10, show_default=True, help="How many rows to show.")
@click.option("--rejected", is_flag=True, help="Show rejected rows instead, with the reasons.")
def show(
    where: Path, overrides: tuple[str, ...], version: str | None, rows: int, rejected: bool
) -> CommandResult:
    """Show a version (the latest) and the list of all."""
    from nanodistill.dataset import open_version, repair_index
    from nanodistill.dataset.tables import rejected_table, version_tables, versions_table

    run = run_at(where, overrides)
    found = open_version(version if run else where, run)
    tables = [rejected_table(found, rows=rows)] if rejected else version_tables(found, rows=rows)
    with listening() as on_event:
        for table in [*tables, *([versions_table(repair_index(run))] if run else [])]:
            on_event(table)
    return CommandResult(found.manifest.model_dump(mode="json"))


@dataset.command("verify")
@reading_options
@click.argument("version", required=False)
def verify(where: Path, overrides: tuple[str, ...], version: str | None) -> CommandResult:
    """Derive every hash of a version again from its files."""
    from nanodistill.dataset import open_version
    from nanodistill.dataset import verify as check

    run = run_at(where, overrides)
    found = check(open_version(version, run).path if run else where)
    said = f"{found.version.name} holds: {found.files} files, {found.rows} rows."
    values = {"version": found.version.name, "files": found.files, "rows": found.rows}
    return CommandResult(values | {"fingerprint": found.version.fingerprint}, said)


@dataset.command("diff")
@reading_options
@click.argument("before", required=False)
@click.argument("after", required=False)
def diff(
    where: Path, overrides: tuple[str, ...], before: str | None, after: str | None
) -> CommandResult:
    """Which rows came, went or changed between two versions (the last two), and why.

    Two folders may be compared without a run file.
    """
    from nanodistill.dataset import diff as compare
    from nanodistill.dataset.tables import diff_tables

    with listening() as on_event:
        found = compare(*_pair(where, run_at(where, overrides), before, after))
        for table in diff_tables(found):
            on_event(table)
    return CommandResult(found.to_json())


def _pair(
    where: Path, run: RunFolder | None, before: str | None, after: str | None
) -> tuple[DatasetVersion, DatasetVersion]:
    """The versions to compare. After a folder comes one other, and nothing more."""
    from nanodistill.dataset import open_version, repair_index

    if run is None:
        if before is None or after is not None:
            raise click.UsageError("A folder is compared with one other: FOLDER OTHER.")
        return open_version(where, None), open_version(before, None)
    names = repair_index(run).names
    if before is None and len(names) < 2:
        there = f"the one version {names[0]}" if names else "no dataset version yet"
        raise FolderError(
            f"{run.root} has {there}, and a diff takes two.",
            next_step="Name two: nanodistill dataset diff RUN.toml BEFORE AFTER, where either may "
            "be a folder.",
        )
    return open_version(before or names[-2], run), open_version(after, run)


@command("edit", dataset)
@click.argument("version", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--from", "mended", type=click.Path(path_type=Path), help="Read them back.")
def edit(
    work: RunContext, version: str | None, out: Path | None, mended: Path | None
) -> CommandResult:
    """Write a version to a file to mend by hand, or read it back as a child version."""
    if (out is None) == (mended is None):
        raise click.UsageError("Say either --out FILE or --from FILE.")
    found = version_of(work, version)
    if out is not None:
        return _written_out(work, found, out)
    return _read_back(work, found, mended or Path())


def _written_out(work: RunContext, version: DatasetVersion, out: Path) -> CommandResult:
    from nanodistill.dataset import export_for_edit

    rows = export_for_edit(version, out)
    again = f"{work.then('dataset edit')} {version.name} --from {out}"
    return CommandResult({"rows": rows, "file": str(out)}, f"{rows} rows in {out}", again)


def _read_back(work: RunContext, version: DatasetVersion, mended: Path) -> CommandResult:
    from nanodistill.dataset import read_edit, write_version

    change = read_edit(version, mended)
    counts = {"changed": change.changed, "dropped": change.dropped, "added": change.added}
    if change.is_empty:
        return CommandResult(counts | {"version": version.name}, "Nothing was changed.")
    child = write_version(run_of(work), change.draft)
    said = ", ".join(f"{n} {what}" for what, n in counts.items())
    return CommandResult(
        counts | {"version": child.name, "path": str(child.path)},
        f"{child.name}, a child of {version.name}: {said}.",
        work.then("train"),
    )


@command("prune", dataset)
@click.argument("versions", nargs=-1)
@click.option("--yes", is_flag=True, help="Remove them, rather than say what would go.")
def prune(work: RunContext, versions: tuple[str, ...], yes: bool) -> CommandResult:
    """Remove versions that nothing refers to; never the latest, nor one trained on."""
    from nanodistill.dataset import prunable
    from nanodistill.dataset import prune as remove
    from nanodistill.status import size

    if yes:
        gone = remove(run_of(work), versions or None)
        freed = size(sum(version.bytes for version in gone))
        names = [version.name for version in gone]
        return CommandResult({"removed": names}, f"Removed {len(gone)} versions, {freed}.")
    found = prunable(run_of(work))
    lines = tuple((v.name, size(v.bytes), v.keep_reason or "may go") for v in found)
    work.on_event(Table("Versions", ("version", "size", ""), lines))
    free = [v.name for v in found if not v.keep_reason]
    return CommandResult(
        {"prunable": free}, next=f"{work.then('dataset prune')} --yes" if free else None
    )


SHOWN_INPUT = 100


@command("suspects", dataset)
@click.argument("version", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows to show."
)
def suspects(work: RunContext, version: str | None, limit: int) -> CommandResult:
    """List rows by how doubtful they are: look at the first ones before you train."""
    from nanodistill import linear_classifier
    from nanodistill.curation.suspects import find_suspects

    opened = version_of(work, version)
    found = find_suspects(opened)
    rows = tuple(
        (f"{one.doubt:.2f}", one.id, one.output[:40], _short(one.input), "; ".join(one.reasons))
        for one in found[:limit]
    )
    work.on_event(Table("Suspects", ("doubt", "id", "output", "input", "why"), rows))
    text = f"{len(found)} of {opened.manifest.counts.kept} rows are doubtful."
    if opened.manifest.labels and not linear_classifier.is_installed():
        text += " With scikit-learn installed (nanodistill[baseline]) a classifier looks, too."
    return CommandResult(
        {"version": opened.name, "suspects": [one.to_json() for one in found[:limit]]},
        text,
        work.then("dataset edit") if found else None,
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_INPUT else line[: SHOWN_INPUT - 1] + "…"
