"""The commands that work on dataset versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanodistill.cli.command import Ending, Work, cli, command, output_options
from nanodistill.events import Table
from nanodistill.runfolder import RunFolder

if TYPE_CHECKING:
    from nanodistill.dataset import DatasetVersion


@cli.group("dataset")
def dataset() -> None:
    """Look at dataset versions, check them, mend them, remove old ones."""


def run_of(work: Work) -> RunFolder:
    return RunFolder(work.config.run_folder)


def version_of(work: Work, version: str | None) -> DatasetVersion:
    """The version of the run that was named, else the latest."""
    from nanodistill.dataset import open_version

    return open_version(version, run_of(work))


@command("show", dataset)
@click.argument("version", required=False)
@click.option("--rows", default=10, show_default=True, help="How many rows to show.")
@click.option("--rejected", is_flag=True, help="Show rejected rows instead, with the reasons.")
def show(work: Work, version: str | None, rows: int, rejected: bool) -> Ending:
    """Show a version (the latest) and the list of all."""
    from nanodistill.dataset import heal_index
    from nanodistill.dataset.show import rejected_table, version_tables, versions_table

    found = version_of(work, version)
    tables = [rejected_table(found, rows=rows)] if rejected else version_tables(found, rows=rows)
    for table in [*tables, versions_table(heal_index(run_of(work)))]:
        work.listen(table)
    return Ending(found.manifest.model_dump(mode="json"))


@dataset.command("verify")
@output_options
@click.argument("where", metavar="RUN.toml|FOLDER", type=click.Path(path_type=Path))
@click.argument("version", required=False)
def verify(where: Path, version: str | None) -> Ending:
    """Derive every hash of a version again from its files."""
    from nanodistill.config import load_config
    from nanodistill.dataset import open_version
    from nanodistill.dataset import verify as check

    is_run = where.suffix == ".toml"
    run = RunFolder(load_config(where).run_folder) if is_run else None
    folder = open_version(version, run).path if is_run else where
    found = check(folder)
    said = f"{found.version.name} holds: {found.files} files, {found.rows} rows."
    values = {"version": found.version.name, "files": found.files, "rows": found.rows}
    return Ending(values | {"fingerprint": found.version.fingerprint}, said)


@command("diff", dataset)
@click.argument("before", required=False)
@click.argument("after", required=False)
def diff(work: Work, before: str | None, after: str | None) -> Ending:
    """Which rows came, went or changed between two versions (the last two), and why."""
    from nanodistill.dataset import diff as compare
    from nanodistill.dataset import heal_index
    from nanodistill.dataset.show import diff_tables

    names = heal_index(run_of(work)).names
    earlier = before or (names[-2] if len(names) > 1 else None)
    found = compare(version_of(work, earlier), version_of(work, after))
    for table in diff_tables(found):
        work.listen(table)
    return Ending(found.to_json())


@command("edit", dataset)
@click.argument("version", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--from", "mended", type=click.Path(path_type=Path), help="Read them back.")
def edit(work: Work, version: str | None, out: Path | None, mended: Path | None) -> Ending:
    """Write a version to a file to mend by hand, or read it back as a child version."""
    if (out is None) == (mended is None):
        raise click.UsageError("Say either --out FILE or --from FILE.")
    found = version_of(work, version)
    if out is not None:
        return _written_out(work, found, out)
    return _read_back(work, found, mended or Path())


def _written_out(work: Work, version: DatasetVersion, out: Path) -> Ending:
    from nanodistill.dataset import export_for_edit

    rows = export_for_edit(version, out)
    again = f"{work.then('dataset edit')} {version.name} --from {out}"
    return Ending({"rows": rows, "file": str(out)}, f"{rows} rows in {out}", again)


def _read_back(work: Work, version: DatasetVersion, mended: Path) -> Ending:
    from nanodistill.dataset import read_edit, write_version

    change = read_edit(version, mended)
    counts = {"changed": change.changed, "dropped": change.dropped, "added": change.added}
    if change.is_empty:
        return Ending(counts | {"version": version.name}, "Nothing was changed.")
    child = write_version(run_of(work), change.draft)
    said = ", ".join(f"{n} {what}" for what, n in counts.items())
    return Ending(
        counts | {"version": child.name, "path": str(child.path)},
        f"{child.name}, a child of {version.name}: {said}.",
        work.then("train"),
    )


@command("prune", dataset)
@click.argument("versions", nargs=-1)
@click.option("--yes", is_flag=True, help="Remove them, rather than say what would go.")
def prune(work: Work, versions: tuple[str, ...], yes: bool) -> Ending:
    """Remove versions that nothing refers to; never the latest, nor one trained on."""
    from nanodistill.dataset import prunable
    from nanodistill.dataset import prune as remove
    from nanodistill.status import size

    if yes:
        gone = remove(run_of(work), versions or None)
        freed = size(sum(version.bytes for version in gone))
        names = [version.name for version in gone]
        return Ending({"removed": names}, f"Removed {len(gone)} versions, {freed}.")
    found = prunable(run_of(work))
    lines = tuple((v.name, size(v.bytes), v.needed_because or "may go") for v in found)
    work.listen(Table("Versions", ("version", "size", ""), lines))
    free = [v.name for v in found if not v.needed_because]
    return Ending({"prunable": free}, next=f"{work.then('dataset prune')} --yes" if free else None)
