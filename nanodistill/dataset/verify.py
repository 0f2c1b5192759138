"""Whether a version is still what it says it is: every hash, recomputed from the files.

Checked are the bytes of every file against the manifest's list and the manifest against its own
hash. Where the bytes are right, each row's id is checked against its source, input and output, its
messages against their parts, and the fingerprint and the counts against the rows. A changed byte
anywhere in the folder is found. Hidden files are not part of a version (the Hub and file browsers
put some there).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nanodistill.dataset.manifest import FILE, Manifest
from nanodistill.dataset.read import DatasetVersion, open_folder
from nanodistill.dataset.rows import (
    REJECTED_FILE,
    SPLITS,
    Row,
    fingerprint_of,
    row_line,
    split_file,
)
from nanodistill.dataset.write import file_facts
from nanodistill.errors import CorruptFileError, Problem, VerificationError
from nanodistill.types import Split, trace_id

ROWS_NAMED = 3
NEVER_NULL = ("id", "messages", "input", "output", "source", "seed_ids", "request_keys")


@dataclass(frozen=True)
class VerifyResult:
    """A version that holds, and how much of it was looked at."""

    version: DatasetVersion
    files: int
    rows: int


def verify(folder: Path) -> VerifyResult:
    """Derive everything again from the files in `folder`.

    Raises:
        VerificationError: with each file that differs and how.
        FolderError: no version lies there, or its manifest can't be read at all.
    """
    version = open_folder(folder)
    found = [*file_problems(version), *manifest_problems(version)]
    if not any(problem.where.endswith(".parquet") for problem in found):
        found += row_problems(version)
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise VerificationError(
            f"{folder} is not what it was when it was written:\n{lines}",
            next_step="Take it from where it came once more, or run synth again: "
            "what the teacher answered is in the journal.",
        )
    counts = version.counts
    rows = counts.kept + counts.test + sum(counts.rejected.values())
    return VerifyResult(version, len(version.manifest.files) + 1, rows)


def file_problems(version: DatasetVersion) -> Iterator[Problem]:
    """Files that are missing, changed or too many."""
    listed = version.manifest.files
    for name, facts in listed.items():
        path = version.path / name
        if not path.is_file():
            yield Problem(name, "is missing")
        elif (now := file_facts(path)) != facts:
            size = f", {now.bytes} bytes instead of {facts.bytes}" * (now.bytes != facts.bytes)
            yield Problem(name, f"has changed since it was written{size}")
    for path in sorted(version.path.rglob("*")):
        name = path.relative_to(version.path).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.is_file() and not hidden and name not in {*listed, FILE}:
            yield Problem(name, "is no part of the version")


def manifest_problems(version: DatasetVersion) -> Iterator[Problem]:
    manifest = version.manifest
    if manifest.seal != manifest.expected_seal():
        yield Problem(FILE, "a field has changed since it was written: the seal does not match")
    elif (version.path / FILE).read_bytes() != manifest.to_bytes():
        yield Problem(FILE, "has changed in its white space since it was written")
    wanted = {split_file(split) for split in SPLITS if getattr(manifest.counts, split)}
    wanted |= {REJECTED_FILE} if manifest.counts.rejected else set()
    for name in sorted(wanted - manifest.files.keys()):
        yield Problem(FILE, f"counts rows of {name} and does not list it")


def row_problems(version: DatasetVersion) -> Iterator[Problem]:
    """What the rows themselves say, against the manifest."""
    manifest = version.manifest
    seen = RowChecks()
    try:
        lines = heapq.merge(*(_lines(version, split, seen) for split in SPLITS))
        fingerprint = fingerprint_of(lines)
        for row in version.rejected():
            seen.rejected[row["reason"]] += 1
            seen.check(row, REJECTED_FILE, manifest)
    except CorruptFileError as damaged:
        yield Problem("", damaged.message)
        return
    yield from seen.problems()
    if fingerprint != manifest.fingerprint:
        yield Problem(
            FILE, f"the fingerprint is {manifest.fingerprint}, the rows' is {fingerprint}"
        )
    for split in SPLITS:
        said = getattr(manifest.counts, split)
        if seen.rows[split] != said:
            yield Problem(
                split_file(split), f"has {seen.rows[split]} rows, the manifest says {said}"
            )
    if seen.rejected != Counter(manifest.counts.rejected):
        said = manifest.counts.rejected
        yield Problem(REJECTED_FILE, f"has {dict(seen.rejected)}, the manifest says {said}")


@dataclass
class RowChecks:
    """Counts of the rows read, and which of them contradict themselves."""

    rows: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    wrong: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def check(self, row: Row, file: str, manifest: Manifest) -> None:
        if any(row[name] is None for name in NEVER_NULL):
            self._note(file, "has a null where there never is one", row)
            return
        if row["id"] != trace_id(row["source"], row["input"], row["output"]):
            self._note(file, "has an id that is not the hash of its input and output", row)
        if not _messages_hold(row, manifest.instruction):
            self._note(file, "has messages that are not made of instruction and input", row)

    def _note(self, file: str, what: str, row: Row) -> None:
        self.wrong.setdefault((file, what), []).append(str(row["id"]))

    def problems(self) -> Iterator[Problem]:
        for (file, what), ids in self.wrong.items():
            more = f" and {len(ids) - ROWS_NAMED} more" if len(ids) > ROWS_NAMED else ""
            yield Problem(file, f"row {', '.join(ids[:ROWS_NAMED])}{more} {what}")


def _lines(version: DatasetVersion, split: Split, seen: RowChecks) -> Iterator[str]:
    for row in version.rows(split):
        seen.rows[split] += 1
        seen.check(row, split_file(split), version.manifest)
        yield row_line(row, split)


def _messages_hold(row: Row, instruction: str) -> bool:
    roles = [message["role"] for message in row["messages"]]
    if roles != ["system", "user", "assistant"]:
        return False
    system, user, _ = (message["content"] for message in row["messages"])
    return bool(system == instruction and user == row["input"])
