"""Train or valid: which side each kept row goes to.

Rows that share a group key (one teacher call, one cluster of near-duplicates)
are on the same side, and so are rows joined by a chain of such keys; else
validation would measure memory. Seeds are the user's own word and train. Within
that, valid gets `val_split` of the rows, and of each stratum, as nearly as whole
groups allow: always the next group, in drawn order, of what valid lacks most.

The result depends on the rows and `random_seed`, not on the order in which they
come. Where valid can't have its share exactly, it is off by no more than half of
the smallest group that could still have gone over; with `val_split` over 0 and at
least two groups it has at least one row, and train has too.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nanodistill.types import Source, Split

CHOICE = 16
"""Groups among which the next one for valid is chosen. More balance strata better and cost more
time."""


@dataclass(frozen=True, slots=True)
class SplitRow:
    """A kept row as the split sees it.

    `groups` are the keys of what it must stay together with. Both sides should have
    their share of each `label`, and within that of each `cell`; either may be "".
    """

    id: str
    source: Source
    groups: tuple[str, ...] = ()
    label: str = ""
    cell: str = ""


@dataclass(frozen=True)
class SplitAssignment:
    """The split of a run's kept rows, by id, and how many groups there are in all and in valid."""

    split_of: dict[str, Split]
    groups: int
    valid_groups: int


@dataclass(frozen=True, slots=True)
class _Group:
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    cells: tuple[str, ...]
    has_seed: bool
    drawn: bytes

    @property
    def size(self) -> int:
        return len(self.ids)


def split_rows(rows: Sequence[SplitRow], *, val_split: float, random_seed: int) -> SplitAssignment:
    """Put each row on a side."""
    groups = _grouped(rows, random_seed)
    chosen = _chosen(groups, len(rows), val_split) if len(groups) > 1 and val_split > 0 else []
    valid = {id for group in chosen for id in group.ids}
    return SplitAssignment(
        split_of={row.id: "valid" if row.id in valid else "train" for row in rows},
        groups=len(groups),
        valid_groups=len(chosen),
    )


def _chosen(groups: list[_Group], rows: int, val_split: float) -> list[_Group]:
    """The groups of the validation split."""
    free = [group for group in groups if not group.has_seed] or groups[1:]
    room = min(max(1, round(rows * val_split)), rows - 1)
    lacking = _Deficit(free, room)
    chosen: list[_Group] = []
    too_big: list[_Group] = []
    for group in lacking.in_turn():
        if room == 0:
            break
        if group.size > room:
            too_big.append(group)
            continue
        chosen.append(group)
        lacking.less(group)
        room -= group.size
    if room and too_big and len(chosen) + 1 < len(groups):
        smallest = min(too_big, key=lambda group: (group.size, *lacking.rank(group)))
        if smallest.size - room < room or not chosen:
            chosen.append(smallest)
    return chosen


class _Deficit:
    """How many rows of each label and cell valid still lacks, and whose turn it is by that."""

    def __init__(self, groups: list[_Group], room: int) -> None:
        share = room / sum(group.size for group in groups)
        labels = Counter(label for group in groups for label in group.labels)
        cells = Counter(cell for group in groups for cell in group.cells)
        self._labels = {label: n * share for label, n in labels.items()}
        self._cells = {cell: n * share for cell, n in cells.items()}
        self._waiting: dict[str, list[_Group]] = defaultdict(list)
        for group in reversed(groups):
            self._waiting[_main_label(group)].append(group)

    def rank(self, group: _Group) -> tuple[float, float, bytes]:
        """Least for the group whose rows are lacking most; then as drawn."""
        labels = sum(self._labels[label] for label in group.labels)
        cells = sum(self._cells[cell] for cell in group.cells)
        return -labels / group.size, -cells / group.size, group.drawn

    def less(self, group: _Group) -> None:
        for label in group.labels:
            self._labels[label] -= 1
        for cell in group.cells:
            self._cells[cell] -= 1

    def in_turn(self) -> Iterator[_Group]:
        """Every group once: of the label that is lacking most, the best of the next few drawn.

        What is lacking only shrinks, so a label whose place in the heap is out of
        date has one that is too good, and is put right when it comes up.
        """
        heap = [(-self._labels[label], label) for label in self._waiting]
        heapq.heapify(heap)
        while heap:
            lacking, label = heap[0]
            if lacking < -self._labels[label]:
                heapq.heapreplace(heap, (-self._labels[label], label))
                continue
            waiting = self._waiting[label]
            first = max(0, len(waiting) - CHOICE)
            yield waiting.pop(min(range(first, len(waiting)), key=lambda n: self.rank(waiting[n])))
            if not waiting:
                heapq.heappop(heap)


def _main_label(group: _Group) -> str:
    """The label that most of its rows have."""
    return min(Counter(group.labels).items(), key=lambda item: (-item[1], item[0]))[0]


def _grouped(rows: Sequence[SplitRow], random_seed: int) -> list[_Group]:
    """The groups in an order drawn from `random_seed` and the ids alone."""
    families = _Families()
    for row in rows:
        for key in row.groups:
            families.join(f"row {row.id}", f"key {key}")
    together: dict[str, list[SplitRow]] = defaultdict(list)
    for row in rows:
        together[families.root(f"row {row.id}")].append(row)
    groups = [_group(members, random_seed) for members in together.values()]
    return sorted(groups, key=lambda group: group.drawn)


def _group(members: Iterable[SplitRow], random_seed: int) -> _Group:
    ordered = sorted(members, key=lambda row: row.id)
    drawn = hashlib.sha256(f"nanodistill.split.v1\0{random_seed}\0{ordered[0].id}".encode())
    return _Group(
        ids=tuple(row.id for row in ordered),
        labels=tuple(row.label for row in ordered),
        cells=tuple(row.cell for row in ordered),
        has_seed=any(row.source == "seed" for row in ordered),
        drawn=drawn.digest(),
    )


class _Families:
    """Union-find: rows joined by a shared key, or a chain of them, have the same root."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, row: str, key: str) -> None:
        self._parent[self.root(row)] = self.root(key)

    def root(self, node: str) -> str:
        above = self._parent.setdefault(node, node)
        while above != node:
            self._parent[node] = self._parent[above]
            node, above = above, self._parent[above]
        return node
