"""Duplicates: a row whose input has been seen, exactly or nearly.

What counts is the input alone: two answers to one question are no variety
either. Whoever comes first in plan order stays.
"""

from __future__ import annotations

import hashlib

from nanodistill.curation.near import NearIndex
from nanodistill.curation.sieve import Refused
from nanodistill.records import Trace, canonical_text


def fingerprint(text: str) -> bytes:
    """Sixteen bytes by which texts are the same, whatever their case, spaces and encoding form."""
    return hashlib.blake2b(
        canonical_text(text).casefold().encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


class Duplicates:
    """Refuses inputs that were seen before, and remembers the others."""

    name = "duplicates"

    def __init__(self, threshold: float) -> None:
        self._exact: dict[bytes, int] = {}
        self._near = NearIndex(threshold)
        self._ids: list[str] = []

    def __call__(self, row: Trace) -> Trace | Refused:
        mark = fingerprint(row.input)
        if mark in self._exact:
            return Refused("duplicate", f"the same as {self._ids[self._exact[mark]]}")
        if (near := self._near.nearest(row.input)) is not None:
            number, similarity = near
            return Refused("near_duplicate", f"{similarity:.0%} the same as {self._ids[number]}")
        self._exact[mark] = self._near.add(row.input)
        self._ids.append(row.id)
        return row
