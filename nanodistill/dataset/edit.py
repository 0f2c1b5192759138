"""Editing a version by hand: out to a file, back as a child version.

The file is JSON lines: `id`, `split`, `input`, `thinking`, `output`. A person changes texts, moves
a row to another split, deletes a line to drop its row, or adds a line without `id`. What comes
back, in any form that rows are read in, is checked as a whole, and every problem is named with its
line. CSV has no null, so an empty `id` or `thinking` counts as none.

A line that is unchanged keeps its row as it was. A row whose input or output was changed is the
person's own from then on: its source is `user`, it has a new id, and the teacher, its calls and its
confidence no longer apply; its seeds and its place in the plan still do. The child has the version
it came from as its parent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanodistill.data_files import READERS, Record, as_text, invalid_text, read_jsonl, read_records
from nanodistill.dataset.manifest import Manifest, StageCount, VersionFacts
from nanodistill.dataset.read import DatasetVersion
from nanodistill.dataset.rows import SPLITS, trace_of
from nanodistill.dataset.write import VersionDraft
from nanodistill.errors import DataError, InputError, Problem
from nanodistill.thinking import Format, has_thinking, resolve_format, round_trips
from nanodistill.types import Rejection, Split, Trace, canonical_text

COLUMNS = ("id", "split", "input", "thinking", "output")
OPTIONAL = ("id", "thinking")
DROPPED = "dropped_by_hand"
MARKS = "or output holds the thinking format's own marks"
NO_THINKING = "is kept by no row of this version, whose thinking format is none; leave it out"

Placed = tuple[Split, Trace]


@dataclass(frozen=True)
class Edit:
    """What a person made of a version: the child's draft, and how many rows that touched."""

    draft: VersionDraft
    changed: int
    dropped: int
    added: int

    @property
    def is_empty(self) -> bool:
        return not (self.changed or self.dropped or self.added)


def export_for_edit(version: DatasetVersion, path: Path) -> int:
    """Write the rows of `version` as a file to mend. Returns how many there are.

    Raises:
        InputError: the file is there already, can't be written, or is called something else.
    """
    if READERS.get(path.suffix.lower()) is not read_jsonl:
        raise InputError(
            f"{path}: rows are written as JSON lines; name a file that ends in .jsonl."
        )
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            written = 0
            for split in SPLITS:
                for row in version.rows(split):
                    line = {name: split if name == "split" else row[name] for name in COLUMNS}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
    except FileExistsError as there:
        raise InputError(
            f"{path} is there already, perhaps with somebody's work in it.",
            next_step="Name another file, or delete it.",
        ) from there
    except OSError as failed:
        raise InputError(f"{path} can't be written: {failed.strerror}.") from failed
    return written


def read_edit(version: DatasetVersion, path: Path) -> Edit:
    """Read the mended file of `version` as the draft of a child.

    Raises:
        DataError: with each line that can't be used.
        ConfigError: the version's thinking format, a user's own, is not at hand.
    """
    parent = {row["id"]: (split, trace_of(row)) for split in SPLITS for row in version.rows(split)}
    reading = _Reading(parent, resolve_format(version.manifest.thinking_format), version.manifest)
    for found in read_records(path):
        reading.take(found)
    if reading.problems:
        raise DataError(f"{path} can't be used as it is:", reading.problems)
    return reading.result(version)


class _Reading:
    """Lines of an edited file, one after the other."""

    def __init__(self, parent: dict[str, Placed], shape: Format, manifest: Manifest) -> None:
        self._parent = parent
        self._shape = shape
        self._manifest = manifest
        self._kept: dict[str, str] = {}
        self._rows: list[Placed] = []
        self._ids: dict[str, str] = {}
        self._sides: dict[str, tuple[bool, str]] = {}
        self._changed = self._added = 0
        self.problems: list[Problem] = []

    def take(self, found: Record | Problem) -> None:
        if isinstance(found, Problem):
            self.problems.append(found)
            return
        fields = {n: v for n, v in found.fields.items() if not (n in OPTIONAL and v == "")}
        wrong = list(_faults(fields, self._parent, self._kept))
        if fields.get("thinking") is not None and not has_thinking(self._shape):
            wrong.append(Problem("thinking", NO_THINKING))
        if not wrong:
            id = fields.get("id")
            placed = fields["split"], self._trace(fields)
            wrong += self._conflicts(placed, self._parent.get(str(id)), found.where)
            self._note(id, placed, found.where)
        self.problems += [Problem(f"{found.where}: {p.where}", p.what) for p in wrong]

    def _trace(self, fields: dict[str, Any]) -> Trace:
        input, output = as_text(fields["input"]), as_text(fields["output"])
        thinking = fields.get("thinking")
        if fields.get("id") is None:
            return _owned(Trace(input, output, "user"), thinking)
        _, before = self._parent[fields["id"]]
        trace = before if before.thinking == thinking else _owned(before, thinking)
        if (input, output) == (before.input, before.output):
            return trace
        own = replace(trace, input=input, output=output, source="user")
        return replace(own, confidence=None, teacher="", request_keys=())

    def _conflicts(self, placed: Placed, before: Placed | None, where: str) -> Iterator[Problem]:
        split, trace = placed
        if placed != before and not round_trips(
            self._shape, trace.thinking, trace.output, ends_count=False
        ):
            yield Problem("thinking", MARKS)
        if before is None or trace.output != before[1].output:
            yield from _unlike_others(trace.output, self._manifest)
        earlier = self._ids.setdefault(trace.id, where)
        if earlier != where and split != "test":
            yield Problem("input", f"is the row of {earlier} once more")
        is_test = split == "test"
        side, at = self._sides.setdefault(canonical_text(trace.input), (is_test, where))
        if side != is_test:
            yield Problem("split", f"is not that of {at}, which has the same input: test is apart")

    def _note(self, id: str | None, placed: Placed, where: str) -> None:
        self._rows.append(placed)
        if id is None:
            self._added += 1
            return
        self._kept[id] = where
        self._changed += placed != self._parent[id]

    def result(self, version: DatasetVersion) -> Edit:
        gone = [placed for id, placed in self._parent.items() if id not in self._kept]
        dropped = [trace for split, trace in gone if split != "test"]
        facts = _child_facts(version, self._rows, len(dropped))
        figures = f"{self._changed} rows changed, {len(gone)} dropped, {self._added} new"
        draft = VersionDraft(
            rows=self._rows,
            rejected=[Rejection(trace, DROPPED) for trace in dropped],
            shape=self._shape,
            facts=facts.model_copy(update={"notes": (*facts.notes, f"Mended by hand: {figures}.")}),
        )
        return Edit(draft, self._changed, len(gone), self._added)


def _unlike_others(output: str, manifest: Manifest) -> Iterator[Problem]:
    """What keeps an output from being one of this task."""
    if manifest.labels and output not in manifest.labels:
        what = f"'{output[:60]}' is none of the labels {', '.join(manifest.labels)}"
        yield Problem("output", what)
    if manifest.response_schema is not None:
        from jsonschema import ValidationError, validate

        try:
            validate(json.loads(output), manifest.response_schema)
        except ValueError:
            yield Problem("output", "is no JSON, as the response model has it")
        except ValidationError as invalid:
            yield Problem("output", f"is not what the response model says: {invalid.message}")


def _owned(trace: Trace, thinking: str | None) -> Trace:
    return replace(trace, thinking=thinking, thinking_from="user" if thinking else None)


def _faults(
    fields: dict[str, Any], parent: dict[str, Placed], kept: dict[str, str]
) -> Iterator[Problem]:
    """What is wrong with a line on its own, and with its id."""
    for name in sorted(fields.keys() - set(COLUMNS)):
        yield Problem(name, f"is no field of a row: {', '.join(COLUMNS)}")
    for name in ("input", "output"):
        try:
            wrong = invalid_text(as_text(fields[name])) if name in fields else "is missing"
        except ValueError as bad:
            wrong = str(bad)
        if wrong:
            yield Problem(name, wrong)
    thinking = fields.get("thinking")
    if thinking is not None and not isinstance(thinking, str):
        yield Problem("thinking", "should be text or null")
    elif thinking is not None and (wrong := invalid_text(thinking)):
        yield Problem("thinking", wrong)
    if fields.get("split") not in SPLITS:
        yield Problem("split", f"should be one of {', '.join(SPLITS)}")
    id = fields.get("id")
    if id is not None and id not in parent:
        yield Problem("id", "is of no row of this version; a new row has none")
    elif id in kept and fields.get("split") != "test":
        yield Problem("id", f"is that of {kept[id]} too; a new row has none")


def _child_facts(version: DatasetVersion, rows: Iterable[Placed], dropped: int) -> VersionFacts:
    """The parent's facts, less those that are about its own making."""
    parent = version.manifest
    splits = [split for split, _ in rows]
    kept = len(splits) - splits.count("test")
    told = parent.model_dump(include=set(VersionFacts.model_fields))
    told |= {
        "made_by": "edit",
        "parents": (parent.fingerprint,),
        "requested": kept + dropped,
        "wanted": None,
        "failed": {},
        "cells": {},
        "split": None,
        "stopped_because": None,
        "stages": [StageCount(stage="read by hand", reached=kept + dropped, refused=dropped)],
        "test_source": parent.test_source or ("user" if "test" in splits else None),
    }
    return VersionFacts.model_validate(told)
