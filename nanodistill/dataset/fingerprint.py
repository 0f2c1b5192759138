"""The fingerprint: one hash that is the same exactly where the rows are the same.

It is the SHA-256 over a tag, a zero byte, and one line for each row of train,
valid and test: the canonical JSON of [id, split, messages, source, seed_ids,
cell, confidence] and a newline. Rows come in order of id (then of split, then of
the line itself, for a test set that holds the same row twice). Teacher, request
keys, dates, names and paths are not in it, nor are rejected rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from nanodistill.records import canonical_json

TAG = b"nanodistill.dataset.v1"
HASHED = ("messages", "source", "seed_ids", "cell", "confidence")


def row_line(row: Mapping[str, Any], split: str) -> str:
    """What the fingerprint sees of a row. Lines sort as their rows do."""
    return canonical_json([row["id"], split, *(row[name] for name in HASHED)])


def fingerprint_of(sorted_lines: Iterable[str]) -> str:
    """The fingerprint of rows whose lines come in order."""
    digest = hashlib.sha256(TAG + b"\0")
    for line in sorted_lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
