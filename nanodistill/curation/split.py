"""Train or valid: which side each kept row goes to.

Rows that share a group key (one teacher call, one cluster of near-duplicates)
are on the same side, and so are rows joined by a chain of such keys; else
validation would measure memory. Seeds are the user's own word and train. Within
that, valid gets `val_split` of the rows and of each stratum, as nearly as whole
groups allow.

The result depends on the rows and `random_seed`, not on the order in which they
come. Where valid can't have its share exactly, it is off by no more than half of
the smallest group that could still have gone over; with `val_split` over 0 and at
least two groups it has at least one row, and train has too.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanodistill.records import Source, Split


@dataclass(frozen=True, slots=True)
class Member:
    """A kept row as the split sees it.

    `groups` are the keys of what it must stay together with; `stratum` is its
    label or cell, of which both sides should have their share.
    """

    id: str
    source: Source
    groups: tuple[str, ...] = ()
    stratum: str = ""


@dataclass(frozen=True)
class Sides:
    """The split of a run's kept rows, by id, and how many groups there are in all and in valid."""

    split_of: dict[str, Split]
    groups: int
    valid_groups: int


@dataclass(frozen=True, slots=True)
class _Group:
    ids: tuple[str, ...]
    strata: Counter[str]
    has_seed: bool
    order: bytes

    @property
    def size(self) -> int:
        return len(self.ids)


def split_rows(rows: Sequence[Member], *, val_split: float, random_seed: int) -> Sides:
    """Put each row on a side."""
    groups = _grouped(rows, random_seed)
    chosen = _chosen(groups, len(rows), val_split) if len(groups) > 1 and val_split > 0 else []
    valid = {id for group in chosen for id in group.ids}
    return Sides(
        split_of={row.id: "valid" if row.id in valid else "train" for row in rows},
        groups=len(groups),
        valid_groups=len(chosen),
    )


def _chosen(groups: list[_Group], rows: int, val_split: float) -> list[_Group]:
    """The groups of the validation split, out of `groups` in their drawn order."""
    free = [group for group in groups if not group.has_seed] or groups[1:]
    room = min(max(1, round(rows * val_split)), rows - 1)
    strata = sum((group.strata for group in free), Counter[str]())
    quotas = _quotas(strata, room)
    chosen, left = _take_within_quotas(free, quotas, room)
    room -= sum(group.size for group in chosen)
    fill, left = _take_what_fits(left, quotas, room)
    room -= sum(group.size for group in fill)
    chosen += fill
    smallest = min(left, key=lambda group: (group.size, group.order), default=None)
    if smallest and (smallest.size - room < room or not chosen) and len(chosen) + 1 < len(groups):
        chosen.append(smallest)
    return chosen


def _quotas(strata: Counter[str], room: int) -> Counter[str]:
    """`room` shared out over strata by size, whole numbers, largest remainders first."""
    total = strata.total()
    exact = {name: room * n / total for name, n in strata.items()}
    quotas = Counter({name: int(part) for name, part in exact.items()})
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: room - quotas.total()]:
        quotas[name] += 1
    return quotas


def _take_within_quotas(
    groups: list[_Group], quotas: Counter[str], room: int
) -> tuple[list[_Group], list[_Group]]:
    """Groups whose strata all have quota for them, and the others. Lowers `quotas`."""
    taken, left = [], []
    for group in groups:
        if group.size <= room and all(quotas[name] >= n for name, n in group.strata.items()):
            quotas.subtract(group.strata)
            room -= group.size
            taken.append(group)
        else:
            left.append(group)
    return taken, left


def _take_what_fits(
    groups: list[_Group], quotas: Counter[str], room: int
) -> tuple[list[_Group], list[_Group]]:
    """Groups that still fit into `room`, those that overrun a quota least first."""

    def overrun(group: _Group) -> int:
        return sum(max(0, n - max(0, quotas[name])) for name, n in group.strata.items())

    taken, left = [], []
    for group in sorted(groups, key=lambda group: (overrun(group), group.order)):
        if group.size <= room:
            room -= group.size
            taken.append(group)
        else:
            left.append(group)
    return taken, left


def _grouped(rows: Sequence[Member], random_seed: int) -> list[_Group]:
    """The groups in an order drawn from `random_seed` and the ids alone."""
    families = _Families()
    for row in rows:
        for key in row.groups:
            families.join(f"row {row.id}", f"key {key}")
    together: dict[str, list[Member]] = defaultdict(list)
    for row in rows:
        together[families.root(f"row {row.id}")].append(row)
    groups = [_group(members, random_seed) for members in together.values()]
    return sorted(groups, key=lambda group: group.order)


def _group(members: Iterable[Member], random_seed: int) -> _Group:
    ordered = sorted(members, key=lambda row: row.id)
    drawn = hashlib.sha256(f"nanodistill.split.v1\0{random_seed}\0{ordered[0].id}".encode())
    return _Group(
        ids=tuple(row.id for row in ordered),
        strata=Counter(row.stratum for row in ordered),
        has_seed=any(row.source == "seed" for row in ordered),
        order=drawn.digest(),
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
