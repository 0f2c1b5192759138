"""Which rows changed between two versions, and what differs in how they were made.

Rows are matched in two steps: the same id is the same row; of the others, one with the same input
(of the same source, else of any) is that row changed. The causes are the differences of the two
manifests. Which cause changed which row is not known. Where no cause differs, the teacher's answers
did.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nanodistill.dataset.manifest import Manifest
from nanodistill.dataset.provenance import defaults_of_data
from nanodistill.dataset.read import DatasetVersion
from nanodistill.dataset.rows import SPLITS
from nanodistill.types import canonical_json, canonical_text

FIELDS = (
    "instruction",
    "thinking_format",
    "labels",
    "response_schema",
    "response_model",
    "teacher",
    "made_by",
    "test_source",
    "stopped_because",
)
TABLES = {"prompts": "prompt", "policy": "policy"}


@dataclass(frozen=True)
class RowRef:
    """A row as a diff shows it."""

    id: str
    split: str
    source: str
    input: str
    thinking: str | None
    output: str


@dataclass(frozen=True)
class RowChange:
    """A row before and after, and in which of split, source, thinking and output they differ."""

    before: RowRef
    after: RowRef
    fields: tuple[str, ...]


@dataclass(frozen=True)
class ConfigChange:
    """A difference in how the versions were made: what, and its text in each (None: absent)."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class VersionDiff:
    """From one version to another."""

    before: str
    after: str
    same: int
    came: tuple[RowRef, ...]
    went: tuple[RowRef, ...]
    changed: tuple[RowChange, ...]
    causes: tuple[ConfigChange, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diff(before: DatasetVersion, after: DatasetVersion) -> VersionDiff:
    """The way from `before` to `after`.

    Raises:
        CorruptFileError: the rows of one can't be read.
    """
    old, new = list(_row_digests(before)), list(_row_digests(after))
    by_id, old, new = _paired(old, new, lambda mark: mark.id)
    by_source, old, new = _paired(old, new, lambda mark: (mark.source, mark.input))
    by_input, old, new = _paired(old, new, lambda mark: mark.input)
    pairs = [(a, b) for a, b in (*by_id, *by_source, *by_input) if _differ(a, b)]
    old_rows = _fetched(before, [*old, *(a for a, _ in pairs)])
    new_rows = _fetched(after, [*new, *(b for _, b in pairs)])
    return VersionDiff(
        before=before.name,
        after=after.name,
        same=len(by_id) + len(by_source) + len(by_input) - len(pairs),
        came=tuple(new_rows[mark] for mark in new),
        went=tuple(old_rows[mark] for mark in old),
        changed=tuple(_change(old_rows[a], new_rows[b]) for a, b in pairs),
        causes=tuple(causes(before.manifest, after.manifest)),
    )


class _RowDigest(NamedTuple):
    """What tells a row apart, small enough to hold for all rows of two versions."""

    id: str
    split: str
    source: str
    input: bytes
    texts: bytes


def _row_digests(version: DatasetVersion) -> Iterator[_RowDigest]:
    for split in SPLITS:
        for row in version.rows(split):
            texts = canonical_json([row["input"], row["thinking"], row["output"]])
            yield _RowDigest(
                row["id"], split, row["source"], _short(canonical_text(row["input"])), _short(texts)
            )


def _short(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _paired(
    old: Iterable[_RowDigest], new: Iterable[_RowDigest], key: Any
) -> tuple[list[tuple[_RowDigest, _RowDigest]], list[_RowDigest], list[_RowDigest]]:
    """Pairs of equal key, each row in one at most, and the rows that are left on either side."""
    waiting: dict[Any, list[_RowDigest]] = defaultdict(list)
    for mark in old:
        waiting[key(mark)].append(mark)
    pairs, left = [], []
    for mark in new:
        partners = waiting[key(mark)]
        if partners:
            pairs.append((partners.pop(0), mark))
        else:
            left.append(mark)
    return pairs, [mark for marks in waiting.values() for mark in marks], left


def _differ(a: _RowDigest, b: _RowDigest) -> bool:
    return (a.split, a.source, a.texts) != (b.split, b.source, b.texts)


def _fetched(version: DatasetVersion, marks: Iterable[_RowDigest]) -> dict[_RowDigest, RowRef]:
    wanted = {(mark.id, mark.split, mark.texts): mark for mark in marks}
    found = {}
    for split in SPLITS:
        for row in version.rows(split):
            texts = _short(canonical_json([row["input"], row["thinking"], row["output"]]))
            if mark := wanted.get((row["id"], split, texts)):
                shown = {name: row[name] for name in ("input", "thinking", "output")}
                found[mark] = RowRef(row["id"], split, row["source"], **shown)
    return found


def _change(before: RowRef, after: RowRef) -> RowChange:
    names = ("split", "source", "input", "thinking", "output")
    differing = (name for name in names if asdict(before)[name] != asdict(after)[name])
    return RowChange(before, after, tuple(differing))


def causes(before: Manifest, after: Manifest) -> Iterator[ConfigChange]:
    """What differs in how two versions were made."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    if before.fingerprint in after.parents:
        yield ConfigChange("made by hand from", None, before.name)
    yield from _differences("", {k: old[k] for k in FIELDS}, {k: new[k] for k in FIELDS})
    settings, later_settings = _of_one_release(before.config, after.config)
    yield from _differences("setting", settings, later_settings)
    for table, called in TABLES.items():
        yield from _differences(called, old[table] or {}, new[table] or {})
    yield from _differences("", _inputs(before), _inputs(after))
    if settings == later_settings and before.config_hash != after.config_hash:
        yield ConfigChange("a setting that is not shown", None, None)
    yield from _differences("library", old["libraries"], new["libraries"])


def _of_one_release(*configs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings with their defaults where only another release has them."""
    known = defaults_of_data()
    names = {name for config in configs for name in config} & known.keys()
    return [{name: known[name] for name in names} | dict(config) if config else {}
            for config in configs]  # fmt: skip


def _inputs(manifest: Manifest) -> dict[str, str]:
    return {
        f"{what} rows": f"{given.rows} rows, {given.sha256[:8]}"
        for what, given in manifest.inputs.items()
    }


def _differences(
    called: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[ConfigChange]:
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            what = f"{called} {name}".strip()
            yield ConfigChange(what, _shown(old.get(name)), _shown(new.get(name)))


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return canonical_json(value)
